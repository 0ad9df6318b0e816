from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import ConfigError
from twotower.recipes.overlay import overlay, value_at, without_none

NAMES = st.sampled_from(["a", "b", "c", "kind"])
SETTINGS = st.dictionaries(
    NAMES,
    st.recursive(
        st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
        lambda inner: st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(SETTINGS, SETTINGS)
def test_nothing_of_the_arguments_changes(base: dict[str, Any], change: dict[str, Any]) -> None:
    before = copy.deepcopy((base, change))
    result = overlay(base, change)
    for value in result.values():
        if isinstance(value, dict | list):
            value.clear()
    assert (base, change) == before


@given(SETTINGS)
def test_an_empty_change_changes_nothing_and_an_empty_base_gives_the_change(settings: dict[str, Any]) -> None:
    assert overlay(settings, {}) == settings
    assert overlay({}, settings) == settings


@given(SETTINGS, SETTINGS)
def test_a_change_made_twice_is_made_once(base: dict[str, Any], change: dict[str, Any]) -> None:
    once = overlay(base, change)
    assert overlay(once, change) == once


def test_a_table_of_another_kind_replaces_and_one_without_a_kind_changes_its_keys() -> None:
    base = {"optimizer": {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0.05}}
    assert overlay(base, {"optimizer": {"kind": "adagrad"}}) == {"optimizer": {"kind": "adagrad"}}
    changed = overlay(base, {"optimizer": {"learning_rate": 0.1}})
    assert changed == {"optimizer": {"kind": "adamw", "learning_rate": 0.1, "weight_decay": 0.05}}


def test_a_whole_table_is_set_before_a_key_in_it_whatever_their_order() -> None:
    for change in (
        {"loss.log_q": False, "loss": {"kind": "in_batch_softmax"}},
        {"loss": {"kind": "in_batch_softmax"}, "loss.log_q": False},
    ):
        assert overlay({}, change) == {"loss": {"kind": "in_batch_softmax", "log_q": False}}


def test_a_dotted_key_through_a_number_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.dim\.x: dim is 16; expected a table"):
        overlay({"model": {"dim": 16}}, {"model.dim.x": 1})


def test_values_at_dotted_keys() -> None:
    settings = {"model": {"layers": (64, 32)}}
    assert value_at(settings, "model.layers") == [64, 32]
    assert value_at(settings, "model.layers.x") is None
    assert value_at(settings, "training.epochs") is None


def test_toml_gets_no_keys_without_a_value() -> None:
    assert without_none({"a": None, "b": [{"c": None, "d": 0}], "e": ()}) == {"b": [{"d": 0}], "e": []}
