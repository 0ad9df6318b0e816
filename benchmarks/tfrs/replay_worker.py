"""Prints TensorFlow Recommenders' results for the cases of `cases.py` as JSON on the last line; run by `replay.py`.

Runs in the environment of `requirements.txt`, without twotower.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import cases
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow_recommenders.layers.feature_interaction import MultiLayerDCN

Found = dict[str, list[float] | str]


def retrieval(one: cases.Retrieval) -> list[float]:
    """The task's loss and metrics."""
    catalogue = tf.data.Dataset.from_tensor_slices(np.zeros((one.zeros, 3), np.float32)).batch(16)
    first = tf.keras.metrics.TopKCategoricalAccuracy(k=1, name="first")
    task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(catalogue, ks=[5]), batch_metrics=[first])
    loss = task(one.query, one.candidates, sample_weight=one.weights)
    metrics = {metric.name: float(metric.result()) for metric in task.metrics}
    accuracy = [metrics["first"], metrics["factorized_top_k/top_5_categorical_accuracy"]]
    return [float(loss), *(accuracy if one.query.ndim == 2 else [])]


def top_k(one: cases.TopK) -> list[float]:
    """Brute force: scores, and then candidates."""
    layer = tfrs.layers.factorized_top_k.BruteForce(k=one.k).index(one.candidates)
    if one.excluded is None:
        scores, rows = layer(one.query)
    else:
        scores, rows = layer.query_with_exclusions(one.query, one.excluded.astype(np.int32))
    return [*scores.numpy().ravel().tolist(), *rows.numpy().ravel().astype(float).tolist()]


def accuracy(name: str, one: cases.Accuracy) -> list[float]:
    """`FactorizedTopK`, by scores or by ids."""
    ids = np.arange(len(one.candidates))
    pairs = tf.data.Dataset.from_tensor_slices((ids, one.candidates)).batch(32)
    layer = tfrs.layers.factorized_top_k.Streaming(k=max(one.ks)).index_from_dataset(pairs)
    metric = tfrs.metrics.FactorizedTopK(layer, ks=list(one.ks))
    by_ids = one.true if name.startswith("by ids") else None
    metric.update_state(
        one.query, one.candidates[one.true], true_candidate_ids=by_ids, sample_weight=one.weights[:, None]
    )
    return [float(value) for value in metric.result()]


def cross_entropy(logits: Any, labels: Any) -> list[float]:
    """The summed cross-entropy, as in the task."""
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, reduction=tf.keras.losses.Reduction.SUM)
    return [float(loss(labels, logits))]


def losses() -> Found:
    """The layers between logits and loss."""
    layers, found = tfrs.layers.loss, Found()
    for seed in cases.SEEDS:
        one, _ = cases.mined(seed)
        mined = layers.HardNegativeMining(cases.HARD)(one.logits, one.labels)
        found[f"hard negatives, seed {seed}"] = cross_entropy(*mined)
        one, ids, _ = cases.accidental(seed)
        hits = layers.RemoveAccidentalHits()(one.labels, one.logits, ids)
        found[f"accidental hits, seed {seed}"] = cross_entropy(hits, one.labels)
        one, probability, _ = cases.corrected(seed)
        logits = layers.SamplingProbablityCorrection()(one.logits, probability)
        found[f"sampling probability, seed {seed}"] = cross_entropy(logits, one.labels)
    return found


def cross(one: cases.Cross) -> list[float]:
    """A cross layer whose weights are ones."""
    layer = tfrs.layers.dcn.Cross(
        projection_dim=one.rank,
        diag_scale=one.diagonal,
        kernel_initializer="ones",
        bias_initializer=tf.keras.initializers.Constant(one.bias),
        preactivation=tf.zeros_like if one.zero else None,
    )
    return numbers(layer(cases.FIRST, one.inputs))


def cross_layers(one: cases.Layers) -> list[float]:
    """`MultiLayerDCN` with weights of ones."""
    bias = tf.keras.initializers.Constant(one.bias)
    layer = MultiLayerDCN(one.rank, one.depth, kernel_initializer="ones", bias_initializer=bias)
    return numbers(layer(cases.FIRST))


def dot(itself: bool) -> list[float]:
    """`DotInteraction` with gathering."""
    layer = tfrs.layers.feature_interaction.DotInteraction(self_interaction=itself, skip_gather=False)
    return numbers(layer([row[None] for row in cases.DOT_INPUTS]))


def refused(call: Callable[[], object]) -> str:
    """Whether an error is raised."""
    try:
        call()
    except ValueError:
        return cases.REFUSED
    return "accepted"


def numbers(tensor: Any) -> list[float]:
    """All numbers of a tensor."""
    return [float(value) for value in tensor.numpy().ravel()]


def theirs() -> dict[str, Found]:
    """TensorFlow Recommenders' results by source and name of the case."""
    wide = np.ones((2, 7), np.float32)
    refusals = {
        "inputs of two widths": refused(lambda: tfrs.layers.dcn.Cross()(wide[:, :5], wide)),
        "a negative diagonal": refused(lambda: tfrs.layers.dcn.Cross(diag_scale=-1.0)(wide, wide)),
    }
    uneven = tfrs.layers.feature_interaction.DotInteraction
    label_loss = tfrs.tasks.Ranking()(labels=cases.LABELS[:, None], predictions=cases.PROBABILITIES[:, None])
    return {
        cases.RETRIEVAL: {name: retrieval(one) for name, one in cases.RETRIEVALS.items()},
        cases.RANKING: {"log loss of 1 and 0.3": [float(label_loss)]},
        cases.TOP_K: {name: top_k(one) for name, one in cases.searches()},
        cases.METRICS: {name: accuracy(name, one) for name, one in cases.accuracies().items()},
        cases.LOSS: losses(),
        cases.CROSS: {**{name: cross(one) for name, one in cases.CROSSES_OF_ONE.items()}, **refusals},
        cases.CROSSES: {name: cross_layers(one) for name, one in cases.CROSS_LAYERS.items()},
        cases.DOT: {
            "with squares": dot(True),
            "without": dot(False),
            "embeddings of two widths": refused(lambda: uneven()(list(cases.UNEVEN))),
        },
    }


if __name__ == "__main__":
    versions = {"tensorflow-recommenders": tfrs.__version__.lstrip("v"), "tensorflow": tf.__version__}
    print(json.dumps({"versions": versions, "cases": theirs()}))
