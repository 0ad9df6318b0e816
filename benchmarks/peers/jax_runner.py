"""The model of `plain_pytorch.py` in JAX: an epoch is one compiled `scan` over its batches, with the data in memory.

Compiling is not counted. Laps end with an epoch, because nothing can look into a compiled one.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from laps import LAYERS, WIDTH, Clock, Course, FloatArray, IntArray, TimeUpError, introduce

BATCH, RATE, HISTORY = 1024, 1e-3, 20


def initial(key: Array, queries: int, items: int) -> dict[str, Any]:
    """Random weights: those of PyTorch's `Embedding` and `Linear`."""
    keys = iter(jax.random.split(key, 10))

    def dense(inputs: int, outputs: int) -> tuple[Array, Array]:
        bound = inputs**-0.5
        return (
            jax.random.uniform(next(keys), (inputs, outputs), minval=-bound, maxval=bound),
            jax.random.uniform(next(keys), (outputs,), minval=-bound, maxval=bound),
        )

    return {
        side: {
            "table": jax.random.normal(next(keys), (rows, WIDTH)),
            "layers": [dense(WIDTH, LAYERS[0]), dense(*LAYERS)],
        }
        for side, rows in (("query", queries), ("item", items))
    }


def tower(weights: dict[str, Any], ids: Array) -> Array:
    """Embeds the mean of some ids, `[B, ids]` to `[B, d]`; id 0 of the query tower is padding."""
    is_id = (ids > 0)[..., None]
    x = (weights["table"][ids] * is_id).sum(axis=1) / jnp.maximum(is_id.sum(axis=1), 1)
    (first, first_bias), (second, second_bias) = weights["layers"]
    return jax.nn.relu(x @ first + first_bias) @ second + second_bias


def loss(weights: dict[str, Any], query: Array, item: Array) -> Array:
    """The loss of a batch: the other items of the batch are the negatives."""
    logits = tower(weights["query"], query) @ tower(weights["item"], item[:, None]).T
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(item))).mean()


def inputs(course: Course) -> tuple[IntArray, IntArray, IntArray, int]:
    """Queries `[events, ids]` and items of train, queries of test, and the number of rows of the query table."""
    if course.is_sequence:
        train, test = (history + 1 for history in course.histories(HISTORY))
        has_history = course.position > 0
        return train[has_history], course.item[has_history], test, course.items + 1
    return course.user[:, None] + 1, course.item, course.test_user[:, None] + 1, course.users + 1


def main() -> None:
    """Trains."""
    course = Course.read()
    query, item, test_query, rows = inputs(course)
    query, item, test_query = (jnp.asarray(ids, dtype=jnp.int32) for ids in (query, item + 1, test_query))
    introduce(course, "jax", "optax", batch=BATCH, optimiser=f"Adam({RATE})", layers=LAYERS)
    optimizer = optax.adam(RATE)
    steps = len(item) // BATCH

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(weights: Any, state: Any, key: Array) -> tuple[Any, Any]:
        def step(carry: tuple[Any, Any], rows: Array) -> tuple[tuple[Any, Any], None]:
            weights, state = carry
            gradient = jax.grad(loss)(weights, query[rows], item[rows])
            update, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, update), state), None

        order = jax.random.permutation(key, len(item))[: steps * BATCH].reshape(steps, BATCH)
        (weights, state), _ = jax.lax.scan(step, (weights, state), order)
        return weights, state

    key = jax.random.key(0)
    weights = initial(key, rows, course.items + 1)
    state = optimizer.init(weights)
    compiled = epoch.lower(weights, state, key).compile()
    embed = jax.jit(tower)

    def export() -> tuple[FloatArray, FloatArray]:
        every_item = jnp.arange(1, course.items + 1)[:, None]
        queries, items = embed(weights["query"], test_query), embed(weights["item"], every_item)
        return np.asarray(queries), np.asarray(items)

    clock = Clock(course, export, steps)
    clock.start()
    with suppress(TimeUpError):
        while True:
            key, own = jax.random.split(key)
            weights, state = jax.block_until_ready(compiled(weights, state, own))
            clock.step(steps)


if __name__ == "__main__":
    main()
