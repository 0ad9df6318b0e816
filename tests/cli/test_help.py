"""The help of every command says all that was written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from twotower.cli.main import app

ROOT = typer.main.get_command(app)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def words_of(text: str) -> str:
    """The text without the marks that only say how it looks, and without its line breaks."""
    return re.sub(r"[\s`│]+", " ", text).strip()


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=str)
def test_nothing_in_brackets_is_swallowed(path: tuple[str, ...], command: Any) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "1000", "TERM": "dumb"})
    assert result.exit_code == 0
    shown = words_of(result.output)
    texts = [inspect.cleandoc(command.help or "").split("\f")[0]]
    texts += [parameter.help for parameter in command.params if getattr(parameter, "help", None)]
    for text in texts:
        for paragraph in text.split("\n\n"):
            assert words_of(paragraph) in shown
