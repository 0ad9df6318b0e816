"""SECURITY.md: every claim names tests, and these are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_is_named_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_claim_names_a_test() -> None:
    model = TEXT.partition("## Threat model")[2]
    claims = re.findall(r"^- .*(?:\n  .*)*", model, re.MULTILINE)
    assert len(claims) >= 15
    for claim in claims:
        assert "`tests/" in claim, claim
