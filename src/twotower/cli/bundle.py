"""`twotower bundle` and `twotower candidates`: another bundle of the same towers, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twotower.cli.output import console_for, write_json
from twotower.data.sources import read_table
from twotower.errors import ConfigError
from twotower.retrieval import IndexSettings, Retriever
from twotower.retrieval.building import rebuilt
from twotower.retrieval.bundle import with_onnx
from twotower.study.results import read_results

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `twotower train` or `bundle` wrote.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]

candidates = typer.Typer(
    help="Add, change and withdraw candidates of a bundle, without training.", no_args_is_help=True
)


def bundle(
    trained: BundleArgument,
    out: Annotated[Path, typer.Option(help="The folder to write; BUNDLE itself may be replaced.")],
    candidates: Annotated[
        Path | None, typer.Option(help="Another catalogue, a Parquet or CSV file. Default: the one that it has.")
    ] = None,
    index: Annotated[
        str, typer.Option(help="exact or hnsw (the extra ann), or a JSON object with settings.")
    ] = "exact",
    parity: Annotated[
        float, typer.Option(min=0, max=1, help="Least recall of an approximate index against exact search.")
    ] = 0.95,
    study: Annotated[
        Path | None, typer.Option(help="A folder that `twotower study` wrote, to keep its results with it.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Keep the towers as ONNX besides (the extra onnx).")] = False,
    json: JsonOption = False,
) -> None:
    """Make a bundle of a trained one: another index, another catalogue, a study's results to show."""
    retriever = Retriever.load(trained)
    notes = {} if study is None else {"study": msgspec.to_builtins(read_results(study / "results.json"))}
    catalogue = None if candidates is None else read_table(candidates, "candidates")
    made = rebuilt(retriever.bundle, catalogue, parsed_index(index), parity, notes)
    _saved(Retriever(with_onnx(made) if onnx else made), out, json)


@candidates.command("add")
def add(
    folder: BundleArgument,
    table: Annotated[Path, typer.Argument(metavar="FILE", help="A Parquet or CSV file with the catalogue's columns.")],
    json: JsonOption = False,
) -> None:
    """Add candidates to a bundle; those whose id it knows are changed."""
    _saved(Retriever.load(folder).add(read_table(table, "candidates")), folder, json)


@candidates.command("withdraw")
def withdraw(
    folder: BundleArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the candidates.")],
    json: JsonOption = False,
) -> None:
    """Withdraw candidates from a bundle."""
    _saved(Retriever.load(folder).withdraw(ids), folder, json)


def parsed_index(text: str) -> IndexSettings:
    """Reads `hnsw`, or `{"kind": "hnsw", "search": 256}`.

    Raises:
        ConfigError: It is neither, or a setting is unknown or out of its range.

    Example:
        >>> parsed_index("hnsw")
        Hnsw(neighbours=32, build=200, search=None)
    """
    try:
        settings = msgspec.json.decode(text) if text.startswith("{") else {"kind": text}
        parsed: IndexSettings = msgspec.convert(settings, IndexSettings)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--index {text!r}: {error}; expected exact, hnsw, or a JSON object") from error
    return parsed


def _saved(retriever: Retriever, folder: Path, json: bool) -> None:
    retriever.save(folder)
    details = retriever.details
    shown = "" if details.parity is None else f", recall@{details.parity.k} {details.parity.recall:.3f}"
    console_for(json).print(
        f"{folder}: version {details.version}, {len(retriever.index):,} candidates, {retriever.index.kind}{shown}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if json:
        write_json(
            {
                "version": details.version,
                "revision": details.revision,
                "candidates": len(retriever.index),
                "index": details.index,
                "parity": details.parity,
            }
        )
