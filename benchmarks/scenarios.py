"""The commands that `torture.py` injects faults into, on tiny logs: their inputs, and the state of their results."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower import Category, Retriever, Tower, TwoTower, processes
from twotower.arrow import content_digest
from twotower.cli import main
from twotower.data import Dataset, from_tables
from twotower.data.movielens import HOME_VARIABLE
from twotower.experiments import pool
from twotower.experiments.results import read_results
from twotower.model.saving import model_version
from twotower.retrieval import onnx
from twotower.training import checkpoint

QUERIES, CANDIDATES, EVENTS = 12, 10, 160
MINE = "mine.txt"
"""A user's own file beside the results."""

CONFIG = """
[data]
interactions = "log"
query_id = "user"
candidate_id = "item"
time = "at"
[split]
rule = "random:0.2"
[model]
layers = [4]
dim = 4
inputs = "log"
[training]
epochs = 2
"""


@dataclass(frozen=True)
class Scenario:
    """A command and its result.

    Attributes:
        name: Its name in the table.
        arguments: Arguments of `twotower`, in a folder that `make_template` filled.
        state: Digest of the result as a user sees it; raises if the result cannot be read.
        repeatable: Whether the command may be rerun after it has succeeded.
        trains: Whether it takes seconds, so that only some faults are tried.
        reports_failures: Whether the result itself says that a part failed, as a search does of a trial that did not
            fit into memory.
    """

    name: str
    arguments: Callable[[Path], list[object]]
    state: Callable[[Path], str]
    repeatable: bool = True
    trains: bool = False
    reports_failures: Callable[[Path], bool] = lambda root: False  # noqa: ARG005

    def run(self, root: Path) -> int:
        """Runs the command in this process and returns its exit code."""
        os.environ[HOME_VARIABLE] = str(root / MINE / "data")  # not a folder: nothing can be written outside the root
        sys.argv = ["twotower", *map(str, self.arguments(root))]
        try:
            main.run()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return 0

    def whole(self, root: Path) -> str:
        """The state, after checking that the user's file is unchanged.

        Raises:
            ValueError: The user's file was changed.
        """
        if (root / MINE).read_text() != "mine":
            raise ValueError(f"{MINE} was changed")
        return self.state(root)


def make_template(root: Path) -> None:
    """Fills a folder with a log, configs, a bundle, and results of earlier commands."""
    log = _log()
    (root / "log").mkdir(parents=True)
    half = len(log.interactions) // 2
    for name, part in (("a", log.interactions.slice(0, half)), ("b", log.interactions.slice(half))):
        pq.write_table(part, root / "log" / f"{name}.parquet")
    pq.write_table(pa.table({"user": list(range(QUERIES))}), root / "queries.parquet")
    pq.write_table(pa.table({"item": [CANDIDATES, CANDIDATES + 1]}), root / "new.parquet")
    (root / "config.toml").write_text(CONFIG)
    (root / "stream.toml").write_text(CONFIG.replace("[split]", "stream = true\n[split]"))
    (root / MINE).write_text("mine")
    model = TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)])).learn(log).eval()
    retriever = Retriever.build(model, log.candidates, seen=log)
    for name in ("shop", "model", "copy"):
        retriever.save(root / name)
    scenario = Scenario("", lambda root: [*_bulk(root), "-k", 2], lambda _: "")
    if scenario.run(root) != 0:
        raise RuntimeError("the template cannot be created")


def _log() -> Dataset:
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "user": draw.permutation(np.arange(EVENTS) % QUERIES),
            "item": draw.permutation(np.arange(EVENTS) % CANDIDATES),
            "at": np.arange(EVENTS),
        }
    )
    return from_tables(table, query_id="user", candidate_id="item", time="at")


def _bundle_state(folder: Path) -> str:
    found = Retriever.load(folder)
    evaluation = found.details.notes.evaluation
    rows = {} if evaluation is None else {name: scores.all for name, scores in evaluation.rows.items()}
    said = [content_digest(found.candidates), found.details.towers, found.details.onnx, rows]
    return _digits(msgspec.json.encode(said) + found.index.embeddings.numpy().tobytes())


def _study_state(folder: Path) -> str:
    if not (folder / "results.json").exists():
        return "none"
    found = read_results(folder / "results.json")
    runs = [[run.key, run.outcome.scores.all] for run in found.runs]
    there = sorted(path.name for path in folder.iterdir() if path.name not in ("report.html", "curves.png"))
    return _digits(msgspec.json.encode([runs, found.verdicts, "runs" in there]))


def _tuning_state(folder: Path) -> str:
    if not (folder / "tune.json").exists():
        return "none"
    found = msgspec.json.decode((folder / "tune.json").read_bytes(), type=dict[str, Any])
    trials = [[one["score"], one["parameters"]] for one in found["trials"] if one["state"] == "complete"]
    return _digits(msgspec.json.encode([trials, found["best"]["outcome"]["scores"]["all"]]))


def _prepared_state(root: Path) -> str:
    folders = [folder for folder in (root / "log" / "_twotower").glob("*") if folder.suffix != ".partial"]
    made = [path for folder in folders for path in folder.glob("*.npy")]
    return _digits(b"".join(path.name.encode() + path.read_bytes() for path in sorted(made)))


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _bulk(root: Path) -> list[object]:
    return ["recommend", root / "shop", "--queries", root / "queries.parquet", "--out", root / "answers.parquet"]


def _experiment(command: str, root: Path, *more: object) -> list[object]:
    return [command, root / "config.toml", "--baselines", "popularity", *more]


SCENARIOS = (
    Scenario(
        "train",
        lambda root: _experiment("train", root, "--out", root / "model"),
        lambda root: _bundle_state(root / "model"),
        trains=True,
    ),
    Scenario(
        "study",
        lambda root: _experiment("study", root, "--vary", "model.dim=4", "--workers", 1, "--out", root / "study"),
        lambda root: _study_state(root / "study"),
        trains=True,
    ),
    Scenario(
        "tune",
        lambda root: _experiment("tune", root, "--trials", 2, "--workers", 1, "--out", root / "tuning"),
        lambda root: _tuning_state(root / "tuning"),
        trains=True,
        reports_failures=lambda root: '"state": "failed"' in (root / "tuning" / "trials.json").read_text(),
    ),
    Scenario("prepare", lambda root: ["prepare", root / "stream.toml"], _prepared_state),
    Scenario(
        "bundle",
        lambda root: ["bundle", root / "shop", "--out", root / "copy", "--candidates", root / "new.parquet"],
        lambda root: _bundle_state(root / "copy"),
    ),
    Scenario(
        "candidates add",
        lambda root: ["candidates", "add", root / "shop", root / "new.parquet"],
        lambda root: _bundle_state(root / "shop"),
    ),
    Scenario(
        "candidates withdraw",
        lambda root: ["candidates", "withdraw", root / "shop", 3, 4],
        lambda root: _bundle_state(root / "shop"),
        repeatable=False,
    ),
    Scenario(
        "recommend --queries",
        lambda root: [*_bulk(root), "-k", 3],
        lambda root: content_digest(pq.read_table(root / "answers.parquet"))[:12],
    ),
    Scenario(
        "bundle --onnx",
        lambda root: ["bundle", root / "shop", "--out", root / "copy", "--onnx"],
        lambda root: _bundle_state(root / "copy"),
    ),
)


def make_cheap(cache: Path) -> None:
    """Makes commands in this process compute less, while they write as usual.

    Workers are forked, a checkpoint is written after every epoch, and ONNX exports are cached in the folder `cache`.
    """
    export = onnx._exported

    def once(model: TwoTower, module: Any, what: str, *more: Any) -> bytes:
        path = cache / f"{model_version(model)}-{what}"
        if not path.exists():
            path.write_bytes(export(model, module, what, *more))
        return path.read_bytes()

    processes.START_METHOD, checkpoint.EVERY_SECONDS = "fork", 0.0
    # A forked worker holds both ends of its pipe, so it never notices that its work is over.
    patch.object(pool, "GRACE", 0.0).start()
    patch.object(onnx, "_exported", once).start()
    main.imported = functools.cache(main.imported)
    for name in main.COMMANDS:
        main.imported(name)


def note_worker_modules(cache: Path) -> None:
    """Makes workers record their imported modules when a job ends."""
    end = pool.Reporter.end

    def noting(reporter: pool.Reporter, ended: pool.Ended) -> None:
        note_modules(cache)
        end(reporter, ended)

    patch.object(pool.Reporter, "end", noting).start()


def note_modules(cache: Path) -> None:
    """Records the modules that this process has imported, for `load_modules`."""
    with (cache / "modules").open("a", encoding="utf-8") as file:
        file.write("\n".join(list(sys.modules)) + "\n")


def load_modules(cache: Path) -> None:
    """Imports the modules that forked processes have recorded, so that later ones need not."""
    for name in set((cache / "modules").read_text(encoding="utf-8").split()) - set(sys.modules):
        with suppress(Exception):  # some modules can only be imported by their package
            importlib.import_module(name)
