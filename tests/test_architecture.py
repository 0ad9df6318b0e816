"""Imports go one way: the order below is that of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import twotower

ROOT = Path(twotower.__file__).parent
LAYERS = (
    *("ground", "data", "features", "model", "evaluation", "training"),
    *("recipes", "retrieval", "experiments", "serving", "cli", "testing"),
)
GROUND = (
    *("arguments", "arrow", "errors", "extras", "files", "interruption", "kinds", "locks", "notebooks"),
    *("processes", "progress", "saved", "version"),
)
FORBIDDEN = {("retrieval", "training"), ("serving", "training"), ("serving", "experiments")}


def layer_of(module: str) -> str:
    """The layer of `twotower.x.y`: its folder, or the ground on which all stand."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "ground"


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("twotower.")}


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "ground"])
def test_a_folder_imports_only_from_those_above_it(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        for name in imports_of(path):
            other = layer_of(name)
            assert LAYERS.index(other) <= LAYERS.index(layer), f"{path.name} imports {name}"
            assert (layer, other) not in FORBIDDEN, f"{path.name} imports {name}"


def test_the_ground_stands_on_nothing() -> None:
    for name in GROUND:
        assert all(layer_of(found) == "ground" for found in imports_of(ROOT / f"{name}.py"))


def test_nothing_unpickles() -> None:
    for path in ROOT.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "pickle" not in source, path
        assert "torch.load" not in source, path
