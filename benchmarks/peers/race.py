"""What else people use for retrieval, in one run: score by seconds of training on two logs, a line per library.

    make race LOG=log.parquet

    python benchmarks/peers/race.py --log log.parquet

`make race` creates an environment for each library first. A library without one is left out, and the table says so.

- The first log is MovieLens 100K, split at random as in TensorFlow Recommenders' tutorial; models read ids only. The
  score is top-100 accuracy over all films (`all`). The second is a log with the columns `user`, `item` and `position`
  (the order of a user's events); the last event of each user is test. Its score is NDCG@10 over new choices.
- The runners (`*_runner.py`, `ours.py`, `plain_pytorch.py`) train one after the other, each in its own process for
  `--minutes` of training. Each writes its embeddings at growing intervals, with its clock stopped. This script
  ranks all of them with the same code.
- The score to reach is the best of the tutorial's model with two layers, trained by twotower.

Prints the tables in Markdown, writes JSON and draws the picture; `race_page.py` puts the tables into the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from race_picture import draw
from race_tables import Heat, Outcome, Point, markdown
from rich.console import Console

from twotower.data import Dataset, Split, builtin, from_tables
from twotower.data.seen import Seen
from twotower.data.splits import LastOut
from twotower.errors import TwoTowerError
from twotower.evaluation.metrics import rank_metrics
from twotower.evaluation.outcomes import repeats_of
from twotower.evaluation.ranking import DotProducts, Ranker
from twotower.recipes.config import Config

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import write_report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIRST_LAP, GROWTH = {False: 0.05, True: 1.0}, {False: 1.25, True: 1.4}
"""Seconds at the first lap, and how many times later each next one is; True for a sequence log, whose laps take longer
to rank."""

SPARE_SECONDS = 240.0
"""Seconds that a runner has for everything but training, before it is ended."""


@dataclass(frozen=True)
class Runner:
    """One line of the picture.

    Attributes:
        name: Its name.
        package: The package whose version is shown.
        script: What to run.
        model: Which model, for a script that has several.
        environment: Name of its environment; empty for this one.
    """

    name: str
    package: str
    script: str
    model: str = ""
    environment: str = ""


TUTORIAL = "twotower, recipe tutorial"
RUNNERS = (
    Runner("twotower", "twotower", "ours.py", "tuned"),
    Runner(TUTORIAL, "twotower", "ours.py", "tutorial"),
    Runner("RecTools, DSSM", "RecTools", "rectools_runner.py", "dssm", "rectools"),
    Runner("RecTools, SASRec", "RecTools", "rectools_runner.py", "sasrec", "rectools"),
    Runner("LibRecommender, TwoTower", "LibRecommender", "librecommender_runner.py", environment="librecommender"),
    Runner("torch-rechub, DSSM", "torch-rechub", "torch_rechub_runner.py", environment="torch-rechub"),
    Runner("PyTorch, a plain loop", "torch", "plain_pytorch.py"),
    Runner("JAX, compiled", "jax", "jax_runner.py", environment="jax"),
)


class Judge:
    """Ranks every runner's embeddings with the same code.

    Args:
        split: The split.
        is_sequence: Whether to score the next item of each user, rather than items left out at random.
    """

    def __init__(self, split: Split, is_sequence: bool) -> None:
        self.ranker = Ranker(split.test, Seen.of(split.train))
        self.is_new = ~repeats_of(split.test, split.train)
        self.is_sequence = is_sequence

    def score(self, queries: np.ndarray, items: np.ndarray) -> float:
        """The score of queries `[test events, d]` and items `[C, d]`.

        Raises:
            TwoTowerError: An embedding is not finite.
        """
        ranks, unseen_ranks = self.ranker.ranks(DotProducts(torch.from_numpy(queries), torch.from_numpy(items)))
        if self.is_sequence:
            return rank_metrics(unseen_ranks[self.is_new], (10,))["ndcg_10"]
        return rank_metrics(ranks, (100,))["top_100"]


def movielens(name: str) -> Split:
    """A built-in data set, split as in the tutorial."""
    data = builtin.load(name)
    return Config().rule_for(data)(data)


def sequence_log(path: Path) -> Split:
    """A log of `user`, `item` and `position`; the last event of each user is test."""
    data = from_tables(path, query_id="user", candidate_id="item", time="position", name=path.stem)
    return LastOut()(data)


def write_course(folder: Path, split: Split, options: argparse.Namespace, is_sequence: bool) -> None:
    """Writes the split, with users and items as numbers, and the rules."""
    train = split.train
    when = np.arange(len(train)) if train.time is None else train.times
    order = np.lexsort((when, train.query_index))
    user = train.query_index[order]
    begin = np.searchsorted(user, user)  # the first row of each event's user
    columns = {"user": user, "item": train.candidate_index[order], "position": np.arange(len(user)) - begin}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    last = np.bincount(user, minlength=train.queries.num_rows)[split.test.query_index]
    columns = {"user": split.test.query_index, "item": split.test.candidate_index, "position": last}
    pq.write_table(pa.table(columns), folder / "test.parquet")
    pq.write_table(pa.table({"item": np.arange(train.candidates.num_rows)}), folder / "items.parquet")
    rules = {
        "users": train.queries.num_rows,
        "items": train.candidates.num_rows,
        "is_sequence": is_sequence,
        "threads": options.threads,
        "seconds": 60 * options.minutes,
        "first": FIRST_LAP[is_sequence],
        "growth": GROWTH[is_sequence],
    }
    (folder / "rules.json").write_text(json.dumps(rules), encoding="utf-8")


def with_known_users(split: Split) -> Split:
    """The split without test events of users that have none in train."""
    is_known = np.isin(split.test.query_index, split.train.query_index)
    return replace(split, test=split.test.take(is_known))


def run(runner: Runner, folder: Path, options: argparse.Namespace, judge: Judge) -> Outcome:
    """Lets a runner train, then ranks its laps."""
    environment = Path(options.environments.format(runner.environment)).absolute()  # runners work in another folder
    python = f"{environment}/bin/python" if runner.environment else sys.executable
    if not Path(python).exists():
        return Outcome(runner.name, runner.package, remark=f"not installed: {python} does not exist")
    remark = None
    command = [python, str(HERE / runner.script), str(folder), *filter(None, [runner.model])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    limit = 60 * options.minutes + SPARE_SECONDS
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit, env=os.environ | threads, cwd=folder
        )
    except subprocess.TimeoutExpired:
        remark = f"ended after {limit:.0f} s"
    else:
        if done.returncode:
            remark = f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    points, scoring = scored(folder, judge)
    path = folder / "about.json"
    about = json.loads(path.read_bytes()) if path.exists() else {"versions": {}, "settings": {}}
    return Outcome(runner.name, runner.package, **about, points=points, remark=remark or scoring)


def scored(folder: Path, judge: Judge) -> tuple[list[Point], str | None]:
    """The laps in a folder with their scores, and why there are no more."""
    path, points = folder / "laps.jsonl", list[Point]()
    laps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    for number, lap in enumerate(laps):
        queries, items = (np.load(folder / f"{number:04}-{name}.npy") for name in ("queries", "items"))
        try:
            points.append(Point(**lap, score=judge.score(queries, items)))
        except TwoTowerError as error:
            return points, str(error)
    return points, None if points else "no lap in time"


def hold(split: Split, runners: Sequence[Runner], options: argparse.Namespace, is_sequence: bool, out: Console) -> Heat:
    """Runs all runners on one log, one after the other."""
    split = with_known_users(split)
    judge, outcomes = Judge(split, is_sequence), []
    for runner in runners:
        with tempfile.TemporaryDirectory(prefix="race-") as folder:
            write_course(Path(folder), split, options, is_sequence)
            outcomes.append(run(runner, Path(folder), options, judge))
        best = max((point.score for point in outcomes[-1].points), default=0.0)
        remark = outcomes[-1].remark or ""
        out.print(f"{split.train.name}, {runner.name}: {best:.4f} {remark}", markup=False, highlight=False)
    reached = (max(one.points, key=lambda p: p.score) for one in outcomes if one.name == TUTORIAL and one.points)
    target = next((point.score for point in reached), None)
    data: Dataset = split.train
    return Heat(
        log=data.name,
        metric="NDCG@10, new choices" if is_sequence else "top-100 accuracy",
        rule=split.rule,
        fingerprint=split.fingerprint,
        events=len(split.train) + len(split.test),
        users=data.queries.num_rows,
        items=data.candidates.num_rows,
        target=target,
        outcomes=outcomes,
    )


def main() -> None:
    """Runs the race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="the first log; 'none' leaves it out")
    parser.add_argument("--log", type=Path, help="Parquet file of the second log; default: no second log")
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes of training for each runner and log")
    parser.add_argument("--threads", type=int, default=2, help="threads of each runner")
    parser.add_argument("--runners", nargs="+", default=[one.name for one in RUNNERS], help="names; default: all")
    parser.add_argument("--environments", default=f"{ROOT}/.venv-{{}}", help="pattern of the environments' folders")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/race.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "race.png")
    options = parser.parse_args()
    names = [one.name for one in RUNNERS]
    if unknown := sorted(set(options.runners) - set(names)):
        parser.error(f"--runners: {unknown[0]!r} is unknown; expected one of {', '.join(map(repr, names))}")
    torch.set_num_threads(options.threads)
    runners = [one for one in RUNNERS if one.name in options.runners]
    out, heats = Console(), []
    if options.data != "none":
        heats.append(hold(movielens(options.data), runners, options, is_sequence=False, out=out))
    if options.log is not None:
        heats.append(hold(sequence_log(options.log), runners, options, is_sequence=True, out=out))
    draw(heats, options.picture)
    path = write_report("race", {"minutes": options.minutes, "heats": heats}, options.out)
    out.print(markdown(heats), markup=False, highlight=False, soft_wrap=True)
    out.print(f"written to {path} and {options.picture}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except TwoTowerError as error:
        sys.exit(f"error: {error}")
