"""The default beside every baseline on simulated logs of very different shapes, so that no log is a blind spot.

    python benchmarks/shapes.py --seeds 0 1 2

Each log is drawn from one simple rule: taste, a chain of items, repeated purchases, short sessions, items that age, or
hardly any data. Some are read without their times. The default is also measured with separate item embeddings
(`share_items = false`). Splits are those that a log gets without `[split]`; test is measured once per training.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import write_report
from rich.console import Console
from rich.table import Table

from twotower.evaluation.metrics import Scores
from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.study import run_study
from twotower.recipes.config import Config, DataConfig

Events: TypeAlias = tuple[list[int], list[int], list[float]]
"""User, item and time in seconds of each event."""

BEGIN, LENGTH = 1_700_000_000, 180 * 86_400
"""First second and length of every log."""

ITEMS = 2_000
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "separate items": {"model": {"share_items": False}},
}


class Measured(msgspec.Struct, frozen=True):
    """One log.

    Attributes:
        events: Number of events.
        users: Number of users.
        items: Number of items.
        protocol: `all`, or `unseen` without what the user has chosen before.
        scores: NDCG@10 of each training seed by model; of each baseline, one.
        train_seconds: Seconds of training by model, mean of the seeds.
    """

    events: int
    users: int
    items: int
    protocol: str
    scores: dict[str, list[float]]
    train_seconds: dict[str, float]


def popularity(items: int) -> npt.NDArray[np.float64]:
    """Share of each item: the n-th is chosen in proportion to n^−0.8."""
    shares = 1 / np.arange(1, items + 1) ** 0.8
    return np.asarray(shares / shares.sum())


def tiny(draw: np.random.Generator, scale: float) -> Events:
    """Three hundred choices by popularity alone."""
    del scale
    chosen = draw.choice(50, 300, p=popularity(50))
    return draw.integers(40, size=300).tolist(), chosen.tolist(), (draw.random(300) * LENGTH).tolist()


def taste(draw: np.random.Generator, scale: float) -> Events:
    """Each user chooses items by a taste of eight numbers and their popularity, none twice; in any order."""
    users, items = int(800 * scale), 400
    likes = draw.normal(size=(users, 8)) @ draw.normal(size=(8, items)) + np.log(popularity(items))
    events: Events = [], [], []
    for user in range(users):
        chances = np.exp(likes[user] - likes[user].max())
        count = int(np.clip(draw.lognormal(3.5, 0.7), 5, 120))
        add(events, user, draw.choice(items, count, replace=False, p=chances / chances.sum()), draw.random(count))
    return events


def groceries(draw: np.random.Generator, scale: float) -> Events:
    """Three of four choices are one of the user's twelve favourites, over and over."""
    shares = popularity(ITEMS)
    events: Events = [], [], []
    for user in range(int(1_500 * scale)):
        favourites, weights = draw.choice(ITEMS, 12, replace=False, p=shares), draw.dirichlet(np.ones(12))
        count = int(draw.integers(10, 60))
        again = draw.random(count) < 0.75
        chosen = np.where(again, draw.choice(favourites, count, p=weights), draw.choice(ITEMS, count, p=shares))
        add(events, user, chosen, draw.random(count))
    return events


def chains(draw: np.random.Generator, scale: float) -> Events:
    """Three of five choices are one of four successors of the user's last one, the others popular items."""
    shares, successors = popularity(ITEMS), draw.integers(ITEMS, size=(ITEMS, 4))
    events: Events = [], [], []
    for user in range(int(1_000 * scale)):
        count = int(draw.integers(30, 120))
        chosen = [int(draw.choice(ITEMS, p=shares))]
        while len(chosen) < count:
            follows = draw.random() < 0.6
            chosen.append(int(successors[chosen[-1], draw.integers(4)] if follows else draw.choice(ITEMS, p=shares)))
        add(events, user, np.array(chosen), np.sort(draw.random(count)))
    return events


def sessions(draw: np.random.Generator, scale: float) -> Events:
    """Sessions of two to seven items of one of sixty kinds, half of them successors of the last."""
    shares, successors = popularity(ITEMS), draw.integers(ITEMS, size=(ITEMS, 4))
    kind = draw.integers(60, size=ITEMS)
    of_kind = [np.flatnonzero(kind == number) for number in range(60)]
    events: Events = [], [], []
    for session in range(int(20_000 * scale)):
        begin, chosen = draw.random(), [int(draw.choice(ITEMS, p=shares))]
        for _ in range(int(draw.integers(1, 7))):
            last, chance = chosen[-1], draw.random()
            near = successors[last, draw.integers(4)] if chance < 0.5 else draw.choice(of_kind[kind[last]])
            chosen.append(int(near if chance < 0.8 else draw.choice(ITEMS, p=shares)))
        add(events, session, np.array(chosen), begin + np.arange(len(chosen)) * 60 / LENGTH)
    return events


def news(draw: np.random.Generator, scale: float) -> Events:
    """Each item is offered for a week and loses its appeal by the day; users choose by taste among what is offered."""
    users, items, week = int(1_200 * scale), 3_000, 7 * 86_400 / LENGTH
    born, likes = draw.random(items), draw.normal(size=(users, 6)) @ draw.normal(size=(6, items)) * 0.7
    events: Events = [], [], []
    for time in draw.random(int(60_000 * scale)):
        offered = np.flatnonzero((born < time) & (born > time - week))
        if len(offered):
            user = int(draw.integers(users))
            appeal = likes[user, offered] - 3.5 * (time - born[offered]) / week
            chances = np.exp(appeal - appeal.max())
            add(events, user, draw.choice(offered, 1, p=chances / chances.sum()), np.array([time]))
    return events


def add(events: Events, user: int, chosen: npt.NDArray[np.int64], at: npt.NDArray[np.float64]) -> None:
    """Adds events of a user, given their places in the log's time from 0 to 1."""
    events[0].extend([user] * len(chosen))
    events[1].extend(chosen.tolist())
    events[2].extend((at * LENGTH).tolist())


SHAPES: dict[str, tuple[Callable[[np.random.Generator, float], Events], bool]] = {
    "tiny": (tiny, True),
    "taste": (taste, True),
    "taste, no times": (taste, False),
    "groceries": (groceries, True),
    "groceries, no times": (groceries, False),
    "chains": (chains, True),
    "sessions": (sessions, True),
    "sessions, no times": (sessions, False),
    "news": (news, True),
}
"""How each log is drawn, and whether its times are read."""


def log_of(name: str, scale: float, folder: Path) -> tuple[DataConfig, str]:
    """Draws a log into a Parquet file, and says under which protocol to measure: repeats count if they are common."""
    make, timed = SHAPES[name]
    users, items, times = make(np.random.default_rng(0), scale)
    table = pa.table({"user": users, "item": items, "at": (np.array(times) + BEGIN).astype(np.int64)})
    path = folder / f"{name}.parquet"
    pq.write_table(table.sort_by("at"), path)
    repeated = 1 - len(set(zip(users, items, strict=True))) / len(users)
    time = "at" if timed else None
    data = DataConfig(name=name, interactions=str(path), query_id="user", candidate_id="item", time=time)
    return data, "all" if repeated >= 0.2 else "unseen"


def measured(data: DataConfig, protocol: str, options: argparse.Namespace, folder: Path) -> Measured:
    """Trains the default on a log and measures it beside every baseline."""
    config = Config(data=data, training={} if options.epochs is None else {"epochs": options.epochs})
    plan = StudyPlan(config=config, variants=grid({}, VARIANTS), split_seeds=[42], seeds=options.seeds, workers=1)
    study = run_study(plan, folder / f"{data.name} study", command="shapes", console=Console(quiet=True))
    cut = study.cuts[0]
    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for run in study.runs:
        name = plan.variants[run.variant].name
        scores.setdefault(name, []).append(value(run.outcome.scores, protocol))
        seconds.setdefault(name, []).append(run.outcome.seconds.train)
    for baseline in study.baselines:
        if baseline.part == "test" and baseline.outcome.scores is not None:
            scores[baseline.name] = [value(baseline.outcome.scores, protocol)]
    means = {name: float(np.mean(own)) for name, own in seconds.items()}
    return Measured(cut.interactions, cut.queries, cut.candidates, protocol, scores, means)


def value(scores: Scores, protocol: str) -> float:
    """NDCG@10 under a protocol."""
    found = scores.all if protocol == "all" else scores.unseen
    return float(found["ndcg_10"])


def table_of(results: dict[str, Measured]) -> Table:
    """The results, one line for each log."""
    table = Table("log", "events", "protocol", *VARIANTS, "best baseline", "", title="NDCG@10")
    for name, one in results.items():
        models = [f"{np.mean(one.scores[model]):.4f}" for model in VARIANTS]
        best = max((model for model in one.scores if model not in VARIANTS), key=lambda model: one.scores[model][0])
        table.add_row(name, f"{one.events:,}", one.protocol, *models, f"{one.scores[best][0]:.4f}", best)
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the logs, relative to the published ones")
    parser.add_argument("--epochs", type=int, help="maximum epochs; default: the recipe's")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/shapes.json")
    options = parser.parse_args()
    console, results = Console(), dict[str, Measured]()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.shapes:
            results[name] = measured(*log_of(name, options.scale, Path(folder)), options, Path(folder))
            console.print(table_of(results))
            write_report("shapes", {"results": results}, options.out)


if __name__ == "__main__":
    main()
