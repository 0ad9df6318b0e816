"""`editing`: load, change and save a bundle under a lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.arguments import checks_arguments
from twotower.locks import locked
from twotower.retrieval.bundle import check_bundle_target
from twotower.retrieval.retriever import Retriever


@contextmanager
@checks_arguments
def editing(folder: str | Path) -> Iterator[Retriever]:
    """Loads a bundle to change and save to the same folder; other processes that write there wait.

    Without it, if two processes load, change and save a bundle at the same time, one undoes the other's changes.
    Processes that only load the bundle never wait. `twotower candidates` and `twotower bundle` use it, too.

    Args:
        folder: The bundle's folder.

    Raises:
        ConfigError: The folder cannot be written, or contains other files than the bundle's.
        SavedFolderError: The folder is missing, truncated, altered, of another format or not a bundle.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from twotower import Category, Tower, TwoTower, data
        >>> log = pa.table({"who": ["ann", "bob"], "what": ["tea", "rum"]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)])).learn(log)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = Retriever.build(model, log.candidates, seen=log).save(f"{place}/shop")
        ...     with editing(f"{place}/shop") as retriever:
        ...         _ = retriever.add(pa.table({"what": ["gin"]})).save(f"{place}/shop")
        ...     sorted(Retriever.load(f"{place}/shop").candidates["what"].to_pylist())
        ['gin', 'rum', 'tea']
    """
    folder = Path(folder)
    if not os.path.exists(folder):  # noqa: PTH110 (Path.exists raises for some names)
        Retriever.load(folder)  # raises before a lock file is created beside it
    with locked(folder):
        retriever = Retriever.load(folder)
        check_bundle_target(folder)
        yield retriever
