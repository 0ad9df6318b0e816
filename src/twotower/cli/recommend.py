"""`twotower recommend`: candidates for one query, or for a whole file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from twotower.cli.models import FolderArgument, JsonOption
from twotower.cli.output import console_for, write_json
from twotower.errors import ConfigError
from twotower.retrieval import Retriever
from twotower.retrieval.answers import Filters
from twotower.retrieval.bulk import recommend_all

BASES = {
    "features": "Its id is not known; these go by what the request says of it.",
    "popularity": "Nothing is known of it; these are the most popular.",
}


def recommend(
    folder: FolderArgument,
    query: Annotated[
        str | None,
        typer.Option(help='The query as a JSON object, such as \'{"user_id": "42"}\'; null or left out: unknown.'),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="A Parquet file of queries in place of one; needs --out.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write: .parquet, .csv or .jsonl.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave out what the query has chosen in training.")
    ] = False,
    exclude: Annotated[list[str] | None, typer.Option(help="An id to leave out; may be given again.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="The only id to choose from; may be given again.")] = None,
    where: Annotated[
        str | None, typer.Option(help="A condition, such as 'year >= 1990 and genres contains \"Comedy\"'.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew what was interrupted.")] = False,
    json: JsonOption = False,
) -> None:
    """Recommend candidates to one query, or to every row of a Parquet file.

    An interrupted file goes on where it was when the same command is given again.
    """
    if (query is None) == (queries is None):
        raise ConfigError("recommend takes --query '{…}', or --queries FILE.parquet with --out; expected one of them")
    if (queries is None) != (out is None):
        raise ConfigError("--queries and --out belong together; expected both, or neither")
    filters = Filters(
        exclude_seen=exclude_seen,
        exclude=tuple(exclude or ()),
        allow=tuple(allow) if allow else None,
        where=where,
    )
    retriever, console = Retriever.load(folder), console_for(json)
    if queries is not None and out is not None:
        count = recommend_all(retriever, queries, out, k, filters=filters, restart=restart, console=console)
        console.print(f"{count:,} queries; written to {out}", highlight=False, markup=False, soft_wrap=True)
        if json:
            write_json({"queries": count, "out": str(out), "version": retriever.version})
        return
    assert query is not None
    _one(retriever, _parsed(query), k, filters, console, json)


def _one(retriever: Retriever, query: dict[str, Any], k: int, filters: Filters, console: Console, json: bool) -> None:
    answer = retriever.recommend(query, k, **filters.arguments)
    if json:
        write_json(answer)
        return
    table = Table(show_edge=False, pad_edge=False)
    for column in ("", "score", *(answer[0].candidate if answer else ())):
        table.add_column(column, overflow="fold")
    for place, one in enumerate(answer, start=1):
        table.add_row(str(place), f"{one.score:.3f}", *(_shown(value) for value in one.candidate.values()))
    console.print(table)
    if said := BASES.get(answer.basis):
        console.print(said, highlight=False)


def _parsed(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--query {text!r}: {error}; expected a JSON object of columns and values") from error


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
