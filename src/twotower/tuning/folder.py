"""The folder that a tuning works in, and how one is recognised."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from twotower.files import names_in

DATABASE = "tune.db"
LOCK, CLAIM_LOCK = ".tune.lock", ".claim.lock"


class TuningFolder:
    """A folder with the database of trials, in which tuning goes on; see `FolderKind`.

    Nothing in it is deleted, so all that is in one counts as the tuning's.
    """

    name = "a tuning"

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """All files where there is a database of trials, or nothing but what an interrupted start leaves."""
        names = frozenset(names_in(folder))
        return names if names <= {LOCK, CLAIM_LOCK} or _has_trials(folder / DATABASE) else None


def _has_trials(database: Path) -> bool:
    """Whether a file is a database of Optuna's, or an empty one that is about to be."""
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            tables = {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error:
        return False
    return not tables or "studies" in tables
