"""`twotower bundle` and `twotower candidates`: make another bundle with the same towers, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twotower.cli.options import DecimalOption, DelimiterOption, ImportOption
from twotower.cli.output import console_for, write_json
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation.verdicts import listed
from twotower.experiments.notes import study_note
from twotower.experiments.train import bundle_of_run
from twotower.locks import locked
from twotower.model.rerank import MOST_RERANKED, Rerank
from twotower.retrieval import INDEXES, IndexSettings, Retriever, editing, write_triton
from twotower.retrieval.building import rebuilt
from twotower.retrieval.bundle import check_bundle_target, load_bundle, with_onnx
from twotower.retrieval.publishing import store_at, with_store

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle written by `twotower train` or `bundle`.")
]
RerankOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=MOST_RERANKED, help="How many candidates to re-rank; 0 for retrieval alone. Default: BUNDLE's."
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="Publish the candidates in a store and search there: postgresql://… (extra pgvector), milvus://… or a "
        "path that ends in .db (extra milvus), or a JSON object. Passwords come from the environment."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]

app = typer.Typer(rich_markup_mode="markdown")
candidates = typer.Typer(help="Add, change or withdraw candidates of a bundle, without training.", no_args_is_help=True)
app.add_typer(candidates, name="candidates")


@app.command()
def bundle(
    trained: BundleArgument,
    out: Annotated[Path, typer.Option(help="The folder to write; BUNDLE itself may be replaced.")],
    candidates: Annotated[
        Path | None, typer.Option(help="Another catalogue: Parquet, CSV or JSON Lines. Default: the bundle's.")
    ] = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    index: Annotated[str, typer.Option(help="exact or hnsw (extra ann), or a JSON object with settings.")] = "exact",
    parity: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum recall of an approximate index against exact search.")
    ] = 0.95,
    store: StoreOption = None,
    store_name: Annotated[
        str | None, typer.Option(help="The store's name in the database. Default: candidates.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A folder written by `twotower study`, whose results to store in the bundle.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="If BUNDLE is a study: the key or variant of the run to use.")] = None,
    rerank: RerankOption = None,
    rerank_by: Annotated[
        str | None, typer.Option(help="The task to re-rank by. Default: BUNDLE's, or the model's only one.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also export the towers as ONNX (extra onnx).")] = False,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Make a bundle from another one, or from a study's run, with another index, store or catalogue."""
    del imports  # imported before the bundle is read
    check_bundle_target(out)
    settings = parsed_index(index)
    beyond = None if store is None else store_at(store, store_name)
    with locked(out):
        old = (Retriever.load(trained) if run is None else bundle_of_run(trained, run)).bundle
        note = None if study is None else study_note(study, old.details)
        csv = old.details.notes.csv_format(delimiter, decimal)
        ranked = reranked_by(old.details.rerank, rerank, rerank_by)
        made = rebuilt(old, candidates, settings, parity, note, ranked, csv)
        if beyond is not None:
            made = with_store(made, beyond, parity, _towers_at(out) - {made.details.towers})
        _saved(Retriever(with_onnx(made) if onnx else made), out, json)


@app.command()
def triton(
    folder: BundleArgument,
    out: Annotated[Path, typer.Option(help="The model repository to write.")],
    name: Annotated[str, typer.Option(help="Prefix of the model names.")] = "twotower",
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Write the towers of a bundle, and its re-ranking head, as a model repository for Triton Inference Server."""
    del imports  # imported before the bundle is read
    made = Retriever.load(folder).bundle
    with locked(out):
        manifest = write_triton(made, out, name)
    sides = ["query", "candidate", *(["ranker"] if made.details.rerank is not None else [])]
    models = [f"{name}_{side}" for side in sides]
    console_for(json).print(
        f"{out}: {listed(models)}, towers {manifest.details['towers']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if json:
        write_json({"models": models, **manifest.details})


@candidates.command("add")
def add(
    folder: BundleArgument,
    table: Annotated[
        Path, typer.Argument(metavar="FILE", help="A Parquet, CSV or JSON Lines file with the catalogue's columns.")
    ],
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Add candidates to a bundle, or change those whose id it already has."""
    del imports  # imported before the bundle is read
    with editing(folder) as retriever:
        _saved(retriever.add(table, delimiter=delimiter, decimal=decimal), folder, json)


@candidates.command("withdraw")
def withdraw(
    folder: BundleArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the candidates.")],
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Withdraw candidates from a bundle."""
    del imports  # imported before the bundle is read
    with editing(folder) as retriever:
        _saved(retriever.withdraw(ids), folder, json)


def parsed_index(text: str) -> IndexSettings:
    """Parses a kind such as `hnsw`, or settings such as `{"kind": "hnsw", "search": 256}`.

    Raises:
        ConfigError: The text is neither, or a setting is unknown or out of range.

    Example:
        >>> parsed_index("hnsw")
        Hnsw(neighbours=32, build=200, search=None)
    """
    try:
        settings = msgspec.json.decode(text) if text.startswith("{") else {"kind": text}
        parsed: IndexSettings = INDEXES.make(settings)
    except (ConfigError, msgspec.MsgspecError) as error:
        raise ConfigError(f"--index {text!r}: {error}") from error
    return parsed


def reranked_by(kept: Rerank | None, n: int | None, by: str | None) -> Rerank | None:
    """A bundle's re-ranking settings, changed by options.

    Args:
        kept: The current settings.
        n: How many candidates to re-rank; 0 for none, None to keep the number.
        by: The task to re-rank by; None to keep the task.

    Example:
        >>> reranked_by(Rerank(200, "rating"), 50, None), reranked_by(Rerank(200, "rating"), 0, None)
        (Rerank(n=50, by='rating'), None)
    """
    if n == 0 or (n is None and by is None):
        return None if n == 0 else kept
    before = Rerank() if kept is None else kept
    return Rerank(before.n if n is None else n, before.by if by is None else by)


def _towers_at(folder: Path) -> frozenset[str]:
    """Version id of the towers of the bundle in a folder, which a service may search; none if there is no bundle."""
    try:
        return frozenset({load_bundle(folder).details.towers})
    except TwoTowerError:  # it cannot be served either
        return frozenset()


def _saved(retriever: Retriever, folder: Path, json: bool) -> None:
    retriever.save(folder)
    details = retriever.details
    shown = "" if details.parity is None else f", recall@{details.parity.k} {details.parity.recall:.3f}"
    console_for(json).print(
        f"{folder}: version {details.version}, {len(retriever.index):,} candidates, {details.searched_by}{shown}",
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
                "store": details.store,
            }
        )
