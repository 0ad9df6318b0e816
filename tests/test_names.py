"""The names of the package itself, which are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import twotower
from twotower import evaluation, training


@pytest.mark.parametrize("name", twotower.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(twotower, name) is not None
    assert name in dir(twotower)


def test_a_name_is_what_its_part_calls_so() -> None:
    assert twotower.evaluate is evaluation.evaluate
    assert twotower.Trainer is training.Trainer


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Twotower'"):
        twotower.Twotower  # type: ignore[attr-defined]  # noqa: B018


def test_parts_and_all_names_are_there_for_who_imports_nothing_else() -> None:
    source = "import twotower as tt; tt.training.Adagrad, tt.data.movielens; from twotower import *; Trainer, data"
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True)
