"""Imports go one way, without circles, as docs/concepts/architecture.md has it; functions and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import twotower

ROOT = Path(twotower.__file__).parent
LAYERS = (
    *("ground", "data", "features", "model", "evaluation", "tasks", "training"),
    *("recipes", "retrieval", "experiments", "serving", "cli", "testing"),
)
FORBIDDEN = {("retrieval", "training"), ("serving", "training"), ("serving", "experiments")}


def name_of(path: Path) -> str:
    """The module of a file, such as `twotower.data.log`."""
    parts = ["twotower", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
GROUND = [name for name, path in MODULES.items() if path.parent == ROOT and path.stem not in ("__init__", "__main__")]


def layer_of(module: str) -> str:
    """The layer of `twotower.x.y`: its folder, or the ground on which all stand."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "ground"


@cache
def parsed(path: Path) -> tuple[frozenset[str], list[tuple[str, int]]]:
    """The modules of ours that a file imports, and its functions with their numbers of lines; read once."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return frozenset(_imports_among(nodes)), list(_functions_among(nodes))


def imports_of(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports anywhere, also for types alone: who names a type depends on it."""
    return parsed(path)[0]


def _imports_among(nodes: list[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys()


def reached_from(layer: str) -> set[str]:
    """All modules that a layer imports, directly or not."""
    reached: set[str] = set()
    waiting = [name for name in MODULES if layer_of(name) == layer]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imports_of(MODULES[name])
    return reached


def _functions_among(nodes: list[ast.AST]) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function, its docstring not counted."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                lines -= docstring.end_lineno - docstring.lineno + 1
            yield node.name, lines


def test_every_folder_is_a_layer() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(LAYERS) - {"ground"}


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "ground"])
def test_a_folder_imports_only_from_those_above_it(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        for name in imports_of(path):
            other = layer_of(name)
            assert LAYERS.index(other) <= LAYERS.index(layer), f"{path.name} imports {name}"


@pytest.mark.parametrize(("layer", "other"), sorted(FORBIDDEN))
def test_what_serves_does_not_reach_what_trains(layer: str, other: str) -> None:
    assert not [name for name in reached_from(layer) if layer_of(name) == other]


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        TopologicalSorter({name: imports_of(path) for name, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_stands_on_nothing(name: str) -> None:
    assert {layer_of(found) for found in imports_of(MODULES[name])} <= {"ground"}


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES.keys())
def test_functions_have_at_most_50_lines_and_files_400(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert [name for name, lines in parsed(path)[1] if lines > 50] == []


def test_nothing_unpickles() -> None:
    for path in ROOT.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "pickle" not in source, path
        assert "torch.load" not in source, path
