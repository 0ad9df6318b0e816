"""Generates the command-line reference from the commands."""

from __future__ import annotations

import re
from typing import Any

import typer

from twotower.cli.main import COMMANDS, EXIT_CODES, imported


def command_line_page() -> str:
    """Every command with its arguments, its options and their help."""
    parts = ["# Command line", "`twotower COMMAND --help` prints the same. Exit codes:"]
    codes = [(0, "done"), (1, "another failure, such as a diverged training"), (130, "interrupted")]
    codes += [(code, f"`{kind.__name__}`: {first_sentence(kind.__doc__)}") for kind, code in EXIT_CODES.items()]
    rows = [f"| {code} | {what} |" for code, what in sorted(codes)]
    parts.append("\n".join(["| code | meaning |", "|---|---|", *rows]))
    for name in COMMANDS:
        parts += _command(f"twotower {name}", imported(name), level=2)
    return "\n\n".join(parts) + "\n"


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.])\s", " ".join((text or "").split()), maxsplit=1)[0]


def cell(text: str) -> str:
    """Escapes text for a table cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _command(name: str, command: Any, level: int) -> list[str]:
    # Paragraphs that Click must not rewrap become code blocks.
    paragraphs = [
        "```text\n" + text.lstrip("\b\n") + "\n```" if text.startswith("\b") else text
        for text in (command.help or "").replace("\f", "").split("\n\n")
    ]
    parts = [f"{'#' * level} {name}", *paragraphs]
    if rows := [_row(one) for one in command.params if not getattr(one, "hidden", False)]:
        parts.append("\n".join(["| argument or option | what it does |", "|---|---|", *rows]))
    for inner in sorted(getattr(command, "commands", {})):
        parts += _command(f"{name} {inner}", command.commands[inner], level + 1)
    return parts


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    name = parameter.metavar or parameter.name.upper()
    shown = ", ".join(f"`{one}`" for one in (parameter.opts if is_option else [name]))
    default = parameter.default
    says = parameter.help or ""
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    if plain and "Default" not in says and not isinstance(default, typer.models.DefaultPlaceholder):
        says += f" Default: {default}."
    return f"| {shown} | {cell(says)} |"
