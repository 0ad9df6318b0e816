from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from twotower.errors import MissingExtraError
from twotower.extras import require

ROOT = Path(__file__).parents[1]


def test_what_is_installed_is_imported() -> None:
    assert require("math", "tune").pi > 3


def test_what_is_not_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_module.*not installed.*pip install 'twotower\[tune\]'"):
        require("no_such_module", "tune")


def test_every_extra_that_an_error_names_is_one() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        argument.value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("require", "check_installed")
        for argument in node.args[1:]
        if isinstance(argument, ast.Constant)
    }
    assert {"text", "onnx", "serve", "tune"} <= named <= set(extras)
