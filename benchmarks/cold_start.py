"""Accuracy of the tuned recipe for queries and candidates that training never saw, by the rate of dropped ids.

    python benchmarks/cold_start.py --data movielens-100k --seeds 3

10% of the queries are held out with all their events. The model trains on the others, is then given the first half of
each held-out query's events as history, without training, and predicts the second half. 10% of the candidates are held
out likewise, and their events are predicted over the whole catalogue: popularity cannot rank them at all, and a random
ranking finds 100 of C. Models read only events before the one they predict, as in serving. Prints a table and writes
JSON.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from twotower.data.dataset import Dataset, concat
from twotower.evaluation import ModelScorer, Popularity, measure
from twotower.evaluation.intervals import mean_interval
from twotower.recipes.config import Config, SplitConfig, config_of
from twotower.recipes.parts import Parts
from twotower.training.callbacks import ProgressBar
from twotower.version import VERSION

HERE = Path(__file__).parent
HELD_OUT = 0.1
METRIC = "top_100"


class Outcome(msgspec.Struct, frozen=True):
    """Top-100 accuracy of one model, `all` and `unseen`, by what is held out and what is known about it."""

    unknown_rate: float
    seed: int
    scores: dict[str, tuple[float, float]]


def halves(events: Dataset) -> tuple[Dataset, Dataset]:
    """Splits each query's events by time into a first half, of at least one event, and a second half."""
    order = np.lexsort((events.times, events.query_index))
    _, begin, count = np.unique(events.query_index[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(begin, count)
    first = place < np.repeat(np.maximum(1, count // 2), count)
    return events.take(order[first]), events.take(order[~first])


def without(events: Dataset, is_new: npt.NDArray[np.bool_]) -> Dataset:
    """The same events with the new candidates removed from the catalogue."""
    row = np.cumsum(~is_new) - 1
    catalogue = events.candidates.filter(pa.array(~is_new))
    return replace(events, candidates=catalogue, candidate_index=row[events.candidate_index])


def trained(config: Config, train: Dataset, unknown_rate: float, seed: int, progress: ProgressBar) -> ModelScorer:
    """Trains a model with the tuned recipe."""
    parts = Parts(train, train, None, SplitConfig("random:0.2", seed), "random:0.2", "")
    recipe = config.resolved_recipe(train)
    trainer = msgspec.structs.replace(recipe.trainer, seed=seed)
    recipe = msgspec.structs.replace(recipe, unknown_rate=unknown_rate, trainer=trainer)
    history = trainer.fit(config.model.build(train, recipe), *parts.for_recipe(recipe), callbacks=[progress])
    model = config.model.build(train, recipe)
    final = msgspec.structs.replace(trainer, early_stopping=None)
    final.fit(model, train, callbacks=[progress], stop_after=history.best.epoch)
    return ModelScorer(model)


def run(config: Config, data: Dataset, unknown_rate: float, seed: int, progress: ProgressBar) -> Outcome:
    """Trains and evaluates one model with held-out queries and one with held-out candidates."""
    draw = np.random.default_rng(seed)
    scores: dict[str, tuple[float, float]] = {}

    def note(name: str, scorer: ModelScorer | Popularity, test: Dataset, train: Dataset) -> None:
        found = measure(scorer, test, train).scores
        scores[name] = found.all[METRIC], found.unseen[METRIC]

    is_new = draw.random(data.queries.num_rows) < HELD_OUT
    others = data.take(~is_new[data.query_index])
    known, asked = halves(data.take(is_new[data.query_index]))
    told = concat([others, known])
    note("new queries: popularity", Popularity(others), asked, told)
    scorer = trained(config, others, unknown_rate, seed, progress)
    note("new queries: attributes alone", scorer, asked, told)
    scorer.model.remember(told)
    note("new queries: and what they did since", scorer, asked, told)

    is_new = draw.random(data.candidates.num_rows) < HELD_OUT
    others, asked = (data.take(is_new[data.candidate_index] == new) for new in (False, True))
    scorer = trained(config, without(others, is_new), unknown_rate, seed, progress)
    note("new candidates", scorer, asked, others)
    chance = 100 / data.candidates.num_rows
    scores["new candidates: chance"] = chance, chance
    return Outcome(unknown_rate, seed, scores)


def table_of(outcomes: list[Outcome]) -> Table:
    """Means over seeds."""
    table = Table("", "ids dropped", "all", "unseen", show_edge=False)
    for name in outcomes[0].scores:
        for rate in sorted({outcome.unknown_rate for outcome in outcomes}):
            own = [outcome.scores[name] for outcome in outcomes if outcome.unknown_rate == rate]
            table.add_row(name, f"{rate:g}", *(str(mean_interval([pair[place] for pair in own])) for place in (0, 1)))
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="a built-in data set, or a config")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.02, 0.1], help="rates of dropped ids")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/cold-start-DATA.json beside this script")
    options = parser.parse_args()
    console = Console()
    config = config_of(options.data)
    config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, reach="before"))
    data = config.data.load()
    outcomes = []
    with ProgressBar(console) as progress:
        for rate in options.rates:
            for seed in range(options.seeds):
                outcomes.append(run(config, data, rate, seed, progress))
                console.print(f"{rate:g}, seed {seed}: {outcomes[-1].scores}", highlight=False, soft_wrap=True)
    console.print(table_of(outcomes))
    out = options.out or HERE / "results" / f"cold-start-{config.data.name}.json"
    out.parent.mkdir(exist_ok=True)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "outcomes": outcomes,
    }
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
