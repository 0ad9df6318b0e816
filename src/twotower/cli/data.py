"""`twotower data`: which data sets there are, fetching one, describing one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from twotower.cli.options import ImportOption
from twotower.cli.output import console_for, write_json
from twotower.data.describe import describe as description_of
from twotower.data.describe import describe_table
from twotower.data.movielens import EDITIONS, available
from twotower.data.movielens import fetch as fetch_edition
from twotower.errors import ConfigError
from twotower.recipes.config import config_of

app = typer.Typer(rich_markup_mode="markdown")
sets = typer.Typer(help="Data sets: list, fetch, describe.", no_args_is_help=True)
app.add_typer(sets, name="data")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]


@sets.command("list")
def list_sets(json: JsonOption = False) -> None:
    """List the data sets that have a name, and which of them are on this machine."""
    editions = available()
    if json:
        write_json(editions)
        return
    table = Table("name", "on this machine", "source", show_edge=False, pad_edge=False)
    table.add_row("simulated", "embedded", "made by twotower; free of any terms")
    for edition in editions:
        table.add_row(f"movielens-{edition.edition}", str(edition.folder or "no"), edition.url)
    console_for(json).print(table)


@sets.command()
def fetch(
    name: Annotated[str, typer.Argument(help="movielens-100k or another edition.")], json: JsonOption = False
) -> None:
    """Download a data set, check it, and say where it is."""
    edition = name.removeprefix("movielens-")
    if edition not in EDITIONS:
        raise ConfigError(f"data set {name!r} cannot be fetched; expected movielens- and one of {', '.join(EDITIONS)}")
    folder = fetch_edition(edition)
    if json:
        write_json({"name": name, "folder": str(folder)})
    else:
        console_for(json).print(str(folder), highlight=False, soft_wrap=True)


@sets.command()
def describe(
    source: Annotated[
        str, typer.Argument(metavar="[DATA|CONFIG.toml]", help="A data set's name, or a config.")
    ] = "simulated",
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Describe a data set: sizes, popularity, activity, columns, terms."""
    del imports  # done, before a config is read
    description = description_of(config_of(source).data.load())
    if json:
        write_json(description)
    else:
        console_for(json).print(describe_table(description))
