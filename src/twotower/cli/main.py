"""The command `twotower`: its parts, and what its exit codes mean."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from twotower.cli import bundle, data, models, recommend, serve, study, tune
from twotower.cli.values import ValuesCommand
from twotower.errors import (
    ConfigError,
    DataError,
    DataUnavailableError,
    DataWarning,
    SavedFolderError,
    TwoTowerError,
)
from twotower.version import VERSION

EXIT_CODES: dict[type[TwoTowerError], int] = {
    ConfigError: 2,
    DataError: 3,
    DataUnavailableError: 4,
    SavedFolderError: 5,
}
OTHER_ERROR, INTERRUPTED = 1, 130


class _Commands(TyperGroup):
    """Says what an interruption leaves behind, which typer would not."""

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
        "used; 4 data that cannot be had; 5 a saved folder that cannot be opened; 130 interrupted."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("study", cls=ValuesCommand)(study.study)
app.command("train")(models.train)
app.command("tune")(tune.tune)
app.command("evaluate")(models.evaluate)
app.command("recommend")(recommend.recommend)
app.command("bundle")(bundle.bundle)
app.add_typer(bundle.candidates, name="candidates")
app.command("serve")(serve.serve)
app.add_typer(data.app, name="data")


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
    """Runs the command line; errors and warnings made on purpose become a line, and errors an exit code."""
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
        console.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), OTHER_ERROR))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it says nothing
        sys.exit(OTHER_ERROR)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
