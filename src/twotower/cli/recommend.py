"""`twotower recommend`: recommends candidates for one query or a whole file of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from twotower.cli.listing import listing
from twotower.cli.models import FolderArgument, JsonOption
from twotower.cli.options import DecimalOption, DelimiterOption, ImportOption
from twotower.cli.output import console_for, launched_together, write_json
from twotower.errors import ConfigError
from twotower.launch import launched_rank
from twotower.model.rerank import MOST_RERANKED
from twotower.retrieval import Retriever
from twotower.retrieval.answers import Filters
from twotower.retrieval.bulk import recommend_all

BASES = {
    "features": "This query was not in training; recommended by what else is known about it.",
    "popularity": "Nothing is known about this query; these are the most popular.",
}

QueryOption = Annotated[
    str | None,
    typer.Option(help='Its id, or its columns as a JSON object, such as \'{"user_id": "42", "age": 30}\'.'),
]
QueriesOption = Annotated[
    Path | None, typer.Option(help="A file of queries instead of one; needs --out.", show_default=False)
]
WhereOption = Annotated[
    str | None, typer.Option(help="A condition, such as 'year >= 1990 and genres contains \"Comedy\"'.")
]
RerankOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=MOST_RERANKED, help="How many to retrieve and re-rank; 0 for retrieval alone. Default: the bundle's."
    ),
]

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def recommend(
    folder: FolderArgument,
    query: QueryOption = None,
    queries: QueriesOption = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    out: Annotated[Path | None, typer.Option(help="The file to write: .parquet, .csv or .jsonl.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    exclude_seen: Annotated[
        bool,
        typer.Option("--exclude-seen/--no-exclude-seen", help="Exclude what the query chose in training."),
    ] = True,
    exclude: Annotated[list[str] | None, typer.Option(help="An id to exclude. Repeatable.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="An id to choose from; others are excluded. Repeatable.")
    ] = None,
    where: WhereOption = None,
    diversity: Annotated[float, typer.Option(min=0, max=1, help="Weight of variety against relevance.")] = 0.0,
    rerank: RerankOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over instead of resuming.")] = False,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Recommend candidates to one query, or to every row of a Parquet, CSV or JSON Lines file.

    Rerun the command to resume an interrupted file.

    Start it with `torchrun --nproc-per-node N -m twotower recommend DIR --queries FILE --out FILE` to share the queries
    among N processes.
    """
    del imports  # imported before the bundle is read
    _check(query, queries, out)
    filters = Filters(
        exclude_seen=exclude_seen,
        exclude=tuple(exclude or ()),
        allow=tuple(allow) if allow else None,
        where=where,
        diversity=diversity,
        rerank="default" if rerank is None else rerank or None,
    )
    console = console_for(json)
    if queries is not None and out is not None:
        with launched_together() as ranks:
            retriever = Retriever.load(folder)
            csv = retriever.details.notes.csv_format(delimiter, decimal)
            count = recommend_all(
                retriever, queries, out, k, filters=filters, csv=csv, restart=restart, console=console
            )
        if ranks.is_first:
            _say(console, f"{count:,} queries; written to {out}")
            if json:
                write_json({"queries": count, "out": str(out), "version": retriever.version})
        return
    assert query is not None
    _one(Retriever.load(folder), _parsed(query), k, filters, console, json)


def _check(query: str | None, queries: Path | None, out: Path | None) -> None:
    """Requires either one query or a file of queries, not both."""
    if (query is None) == (queries is None):
        raise ConfigError(
            "recommend needs --query ID or '{…}', or --queries FILE.parquet with --out; expected one of them"
        )
    if (queries is None) != (out is None):
        raise ConfigError("--queries and --out belong together; expected both, or neither")
    if query is not None and launched_rank() is not None:
        raise ConfigError("a single query runs in one process; use torchrun only with --queries FILE")


def _one(
    retriever: Retriever, query: dict[str, Any] | str | int, k: int, filters: Filters, console: Console, json: bool
) -> None:
    answer = retriever.recommend(query, k, **filters.arguments)
    if json:
        write_json(answer)
        return
    details = retriever.details
    table, left_out = listing(answer.recommendations, details.candidate_id, details.title, console.width)
    console.print(table)
    if left_out:
        count = f"{len(left_out)} column{'s' if len(left_out) > 1 else ''}"
        _say(console, f"No room for {count}: {', '.join(left_out)}; --json shows all.")
    for said in (BASES.get(answer.basis), *answer.notes):
        if said is not None:
            _say(console, said)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _parsed(text: str) -> dict[str, Any] | str | int:
    """Parses a JSON object of columns and values, or an id as JSON or plain text."""
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any] | str | int)
    except msgspec.DecodeError as error:
        if text.lstrip()[:1] in ("{", "[", '"') or isinstance(error, msgspec.ValidationError):
            fault = "" if isinstance(error, msgspec.ValidationError) else f": {error}"
            raise ConfigError(
                f"--query {text!r}{fault}; expected an id, or a JSON object of columns and values"
            ) from error
        return text
