"""Queries and candidates that training never saw: what the tuned recipe makes of them, by the share of ids dropped.

    python benchmarks/cold_start.py --data movielens-100k --seeds 3

A tenth of the queries is held out with all their events. The model trains on the others and is then told, without
training, the first half of what each of them did; the second half is asked for. A tenth of the candidates is held out
likewise, and their events are asked for over the whole catalogue: popularity cannot rank them at all, and chance puts
100 of C first. Models read only what lies before an event, as they do when serving. Prints a table and writes JSON.
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
    """Top-100 of one model, `all` and `unseen`, by what is held out and what is known of it."""

    unknown_rate: float
    seed: int
    scores: dict[str, tuple[float, float]]


def halves(events: Dataset) -> tuple[Dataset, Dataset]:
    """The first and the second half of each query's events, by time; at least one event in the first."""
    order = np.lexsort((events.times, events.query_index))
    _, begin, count = np.unique(events.query_index[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(begin, count)
    first = place < np.repeat(np.maximum(1, count // 2), count)
    return events.take(order[first]), events.take(order[~first])


def without(events: Dataset, is_new: npt.NDArray[np.bool_]) -> Dataset:
    """The same events over a catalogue that lacks the new candidates."""
    row = np.cumsum(~is_new) - 1
    catalogue = events.candidates.filter(pa.array(~is_new))
    return replace(events, candidates=catalogue, candidate_index=row[events.candidate_index])


def trained(config: Config, train: Dataset, unknown_rate: float, seed: int, progress: ProgressBar) -> ModelScorer:
    """A model of the tuned recipe."""
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
    """One model without some queries, one without some candidates."""
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
    """Means over the seeds."""
    table = Table("", "ids dropped", "all", "unseen", show_edge=False)
    for name in outcomes[0].scores:
        for rate in sorted({outcome.unknown_rate for outcome in outcomes}):
            own = [outcome.scores[name] for outcome in outcomes if outcome.unknown_rate == rate]
            table.add_row(name, f"{rate:g}", *(str(mean_interval([pair[place] for pair in own])) for place in (0, 1)))
    return table


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="a built-in data set, or a config")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.02, 0.1], help="shares of ids dropped")
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
