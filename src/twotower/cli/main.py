"""The command `twotower`: its subcommands and exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from twotower.errors import (
    ConfigError,
    DataError,
    DataUnavailableError,
    DataWarning,
    SavedFolderError,
    TwoTowerError,
    UpdateRefusedError,
)
from twotower.launch import launched_rank
from twotower.startup import INTERRUPTED, collect_again, raise_on_interrupt
from twotower.version import VERSION

EXIT_CODES: dict[type[TwoTowerError], int] = {
    ConfigError: 2,
    DataError: 3,
    DataUnavailableError: 4,
    SavedFolderError: 5,
    UpdateRefusedError: 6,
}
OTHER_ERROR = 1

COMMANDS = {
    "study": (
        "study",
        "Compare variants of a config: depths by default, or whatever --vary, --train-share or [variants] name.",
    ),
    "train": (
        "models",
        "Train one model from a config, measure it and the baselines on test, and save it ready to recommend.",
    ),
    "update": ("update", "Train a bundle's successor on new events, and publish it only if it is not worse."),
    "tune": (
        "tune",
        "Search for a better config on a validation part; measure the best and the built-in one on test.",
    ),
    "evaluate": (
        "models",
        "Measure a trained model and the baselines on its test part, whole and in slices.",
    ),
    "recommend": (
        "recommend",
        "Recommend candidates to one query, or to every row of a Parquet, CSV or JSON Lines file.",
    ),
    "bundle": (
        "bundle",
        "Make a bundle from another one, or from a study's run, with another index, store or catalogue.",
    ),
    "candidates": ("bundle", "Add, change or withdraw candidates of a bundle, without training."),
    "triton": (
        "bundle",
        "Write the towers of a bundle, and its re-ranking head, as a model repository for Triton Inference Server.",
    ),
    "serve": ("serve", "Serve a bundle over HTTP, with a page at / to try it on."),
    "prepare": (
        "prepare",
        "Sort a streamed log by query and time, once, before histories and splits need it.",
    ),
    "data": ("data", "Data sets: list, fetch, describe."),
    "doctor": (
        "doctor",
        "Check the installation: versions, extras, devices, threads, and the speed of this machine.",
    ),
}
"""Every command: its module in this package, and the first sentence of its help."""

TORCHRUN_COMMANDS = "train", "evaluate", "recommend"
"""Commands that torchrun may start in several processes."""


class _Commands(TyperGroup):
    """Imports a command's module only when it is called, as that takes seconds; reports interruptions."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, left = super().resolve_command(ctx, args)
        if name is not None and name not in TORCHRUN_COMMANDS and launched_rank() is not None:
            raise ConfigError(
                f"twotower {name} runs in one process; use torchrun only for {', '.join(TORCHRUN_COMMANDS)}"
            )
        found = command if name is None else imported(name)
        raise_on_interrupt()
        collect_again()
        return name, found, left

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; rerun the command to resume", highlight=False)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    help="Deep retrieval: from an interaction log to a measured candidate generator.",
    epilog=(
        "Start with `twotower study`, then `twotower train CONFIG.toml --out DIR` on your own log. "
        "Exit codes: 0 done; 1 training diverged or another failure; 2 wrong option or config; 3 data that cannot be "
        "used; 4 data that cannot be found or downloaded; 5 a saved folder that cannot be opened; 6 an update that was "
        "refused; 130 interrupted."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def imported(name: str) -> Any:
    """Imports a command from its module."""
    commands: typer.Typer = import_module(f"twotower.cli.{COMMANDS[name][0]}").app
    return typer.main.get_group(commands).commands[name]


def _placeholder() -> None:
    """Stands in for a command until it is imported."""


for name, (_, does) in COMMANDS.items():
    app.command(name, help=does)(_placeholder)


@app.callback(invoke_without_command=True)
def twotower(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Deep retrieval: from an interaction log to a measured candidate generator."""
    del context
    if version:
        typer.echo(VERSION)
        raise typer.Exit


def run() -> None:
    """Runs the command line. Prints twotower's errors and data warnings as one line; errors set the exit code."""
    console = Console(stderr=True)
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, DataWarning):
            console.print(f"[bold yellow]warning:[/] {_escaped(str(message))}", highlight=False, soft_wrap=True)
        else:
            shown(message, category, *where, **more)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            app(standalone_mode=True)
    except TwoTowerError as error:
        where = "" if (rank := launched_rank()) is None else f" (rank {rank})"
        if not error.is_reported:
            console.print(f"[bold red]error{where}:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), OTHER_ERROR))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it raises no error
        sys.exit(OTHER_ERROR)
    except (OSError, MemoryError) as error:  # failures of the system: memory, file descriptors, disk
        said = str(error) or "not enough memory"
        console.print(f"[bold red]error:[/] {_escaped(said)}", highlight=False, soft_wrap=True)
        sys.exit(OTHER_ERROR)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
