"""Constructors refuse what is of the wrong type or range when they are called, whichever argument it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from twotower.arguments import Settings, checks_arguments
from twotower.errors import ConfigError
from twotower.features import (
    Activity,
    Bucketized,
    Categories,
    Category,
    Cyclic,
    Elapsed,
    Hashed,
    History,
    Text,
    TextEncoder,
    Unified,
    Vector,
)
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.training import Adagrad, AdamW, Constant, Cosine, EarlyStopping, Trainer

MAKERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Activity": (Activity, {"column": "at", "by": "who"}),
    "Bucketized": (Bucketized, {"column": "x"}),
    "Categories": (Categories, {"column": "x"}),
    "Category": (Category, {"column": "x"}),
    "Cyclic": (Cyclic, {"column": "x"}),
    "Elapsed": (Elapsed, {"column": "at", "by": "who"}),
    "Hashed": (Hashed, {"column": "x"}),
    "History": (History, {"column": "x", "by": "who", "time": "at"}),
    "Text": (Text, {"column": "x"}),
    "TextEncoder": (TextEncoder, {"column": "x", "model": "encoder"}),
    "Unified": (Unified, {"columns": ["x", "y"]}),
    "Vector": (Vector, {"column": "x", "size": 4}),
    "Tower": (Tower, {"features": [Category("x")]}),
    "TwoTower": (TwoTower, {"query": Tower([Category("x")]), "candidate": Tower([Category("y")])}),
    "Adagrad": (Adagrad, {}),
    "AdamW": (AdamW, {}),
    "Constant": (Constant, {}),
    "Cosine": (Cosine, {}),
    "EarlyStopping": (EarlyStopping, {}),
    "FullSoftmax": (FullSoftmax, {}),
    "InBatchSoftmax": (InBatchSoftmax, {}),
    "Trainer": (Trainer, {}),
}


def arguments_of(name: str) -> dict[str, Any]:
    """Each argument of a maker, with its annotation as it is written."""
    maker, _ = MAKERS[name]
    if isinstance(maker, type) and issubclass(maker, msgspec.Struct):
        return dict.fromkeys(maker.__struct_fields__)
    return {argument: parameter.annotation for argument, parameter in inspect.signature(maker).parameters.items()}


@pytest.mark.parametrize(("name", "argument"), [(name, one) for name in MAKERS for one in arguments_of(name)])
def test_an_object_of_no_use_is_refused_with_its_name_and_what_was_expected(name: str, argument: str) -> None:
    maker, needed = MAKERS[name]
    with pytest.raises(ConfigError, match=rf"{name}: {argument}=<object object .*>; expected "):
        maker(**(needed | {argument: object()}))


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, one) for name in MAKERS for one, hint in arguments_of(name).items() if hint in ("int", "float")],
)
def test_every_number_is_checked_for_its_range_and_kind(name: str, argument: str) -> None:
    maker, needed = MAKERS[name]
    for value in (-1, float("nan"), float("inf"), True, "3"):
        with pytest.raises(ConfigError, match=rf"{argument}={re.escape(repr(value))}|{argument}=-1\.0"):
            maker(**(needed | {argument: value}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "Trainer: optimizer='adam'; expected Adagrad(…) or AdamW(…)"),
        (
            {"loss": "softmax"},
            "Trainer: loss='softmax'; expected InBatchSoftmax(…), FullSoftmax(…), or an object that implements Loss",
        ),
        ({"loss": InBatchSoftmax}, "Trainer: loss=<class"),
        (
            {"schedule": "cosine"},
            "Trainer: schedule='cosine'; expected Constant(…), Cosine(…), or an object that implements Schedule",
        ),
        ({"early_stopping": True}, "Trainer: early_stopping=True; expected EarlyStopping(…) or None"),
        ({"precision": "fp16"}, "precision='fp16'; expected one of 'float32', 'tf32', 'bf16'"),
        ({"epochs": 3.0}, "epochs=3.0; expected a whole number"),
        ({"epochs": True}, "epochs=True; expected a whole number"),
        ({"ks": "10"}, "ks='10'; expected a sequence, each a whole number"),
        ({"ks": 10}, "ks=10; expected a sequence, each a whole number"),
        ({"seed": -1}, "seed=-1; expected a whole number of at least 0 and below 2**63"),
        ({"seed": 2**63}, "seed=9223372036854775808; expected"),
        ({"clip_norm": float("inf")}, "clip_norm=inf; expected a finite number or None"),
        ({"device": "gpu"}, "device='gpu'; expected cpu or cuda"),
        ({"device": "mps"}, "device='mps' is not supported; expected cpu or cuda"),
        ({"device": "cuda:99"}, "device='cuda:99': "),
        ({"monitor": "top100"}, "monitor='top100' with ks=(1, 5, 10, 50, 100): metric 'top100' was not measured"),
        ({"monitor": "seen.mrr"}, "metric 'seen.mrr' was not measured; expected one of top_1, "),
        ({"monitor": "all.top_7"}, "monitor='all.top_7'"),
        ({"ks": (10, 20)}, "monitor='all.top_100' with ks=(10, 20)"),
    ],
)
def test_a_trainer_says_what_is_wrong_when_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Trainer(**settings)


def test_what_means_the_same_is_taken() -> None:
    trainer = Trainer(epochs=np.int64(3), ks=[1, np.int32(100)], clip_norm=1)  # type: ignore[arg-type]
    assert trainer == Trainer(epochs=3, ks=(1, 100), clip_norm=1.0)
    assert [type(value) for value in (trainer.epochs, trainer.ks[1], trainer.clip_norm)] == [int, int, float]
    assert msgspec.convert(msgspec.to_builtins(trainer), Trainer) == trainer
    assert Tower([Category("x")], np.array([8, 4])).layers == [8, 4]  # type: ignore[arg-type]


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="epochs='3'"):
        msgspec.structs.replace(Trainer(), epochs="3")


class Wide(Settings, frozen=True):
    sizes: tuple[int, float] | None = None
    names: list[str] | None = None


def test_members_of_sequences_are_checked() -> None:
    assert Wide((1, 2)).sizes == (1, 2.0)
    for sizes in ((1,), (1, 2, 3), (1.5, 2), {1: 2, 3: 4}):
        with pytest.raises(ConfigError, match="expected 2 values: a whole number, a finite number, or None"):
            Wide(sizes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a sequence, each text"):
        Wide(names=["a", 3])  # type: ignore[list-item]


def test_what_annotations_do_not_say_is_let_through() -> None:
    class Local:
        pass

    @checks_arguments
    def take(anything, local: Local, *more: int, **others: str) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
        return anything, local, more, others

    assert take(1, 2, "x", key=3) == (1, 2, ("x",), {"key": 3})  # type: ignore[arg-type]


def test_a_wrong_call_names_the_function() -> None:
    with pytest.raises(TypeError, match=r"^Category\(\) got an unexpected keyword argument 'dimension'"):
        Category("user", dimension=32)  # type: ignore[call-arg]
