"""What explicit negatives are worth: losses with and without the candidates that were shown and not chosen.

    python benchmarks/exposures.py --seeds 3

In the simulated log, every query asks for a list. A policy fills it, from promotion that is the same for everybody and,
to a degree, from what the query likes; the query then chooses one by its true probabilities. Models are trained on the
choices, with the rest of each list as negatives or without, and measured on later events of the same log (validation):

- `logged`: the choices from lists, over the whole catalogue; promotion decides much of these.
- `free`: what the same queries would choose at the same times from the whole catalogue, with no list between.
- `exposed`: the choices from lists, among what was shown.

Every model has the weights of its best epoch by `logged all.mrr`. Prints, for each metric, the mean over seeds and the
difference to the same loss without explicit negatives, paired by seed. Writes JSON.
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

import twotower as tt
from twotower.data import Dataset, from_tables, simulated, split_by_time
from twotower.evaluation import ModelScorer, measure
from twotower.evaluation.intervals import mean_interval
from twotower.version import VERSION

HERE = Path(__file__).parent
BLOCK = 4096
UNIFORM = 256
METRICS = ("logged all.mrr", "free all.mrr", "free all.top_100", "exposed mrr")


class Setting(msgspec.Struct, frozen=True):
    """A loss: `full` or `in-batch`, with how many exposed negatives of which weight; 0 for none."""

    loss: str
    count: int
    weight: float

    def build(self) -> tt.FullSoftmax | tt.InBatchSoftmax:
        """The loss."""
        if self.loss == "full":
            return tt.FullSoftmax(exposed_negatives=self.count, exposed_weight=self.weight)
        return tt.InBatchSoftmax(uniform=UNIFORM, exposed_negatives=self.count, exposed_weight=self.weight)


class Outcome(msgspec.Struct, frozen=True):
    """The metrics of one model, by how much the policy knows."""

    personal: float
    setting: Setting
    seed: int
    best_epoch: int
    scores: dict[str, float]


def with_lists(data: Dataset, length: int, personal: float, seed: int) -> Dataset:
    """A log of lists: at the time of each event its query is shown some candidates and chooses one of them.

    Args:
        data: Simulated data.
        length: Candidates in a list.
        personal: How much the policy knows: the power of the true probabilities in it, 0 for nothing.
        seed: Seed of promotion, lists and choices.
    """
    draw = np.random.default_rng([seed, len(data)])
    oracle, catalogue = data.oracle, data.candidates.num_rows
    assert oracle is not None
    promotion = draw.normal(size=catalogue)
    shown = np.empty((len(data), length), dtype=np.int64)
    chosen = np.empty(len(data), dtype=np.int64)
    for start in range(0, len(data), BLOCK):
        part = slice(start, min(start + BLOCK, len(data)))
        likes = oracle.log_probabilities(data.query_index[part], data.times[part]).astype(np.float64)
        policy = promotion + personal * likes + draw.gumbel(size=likes.shape)  # the highest are draws without return
        shown[part] = np.argpartition(-policy, length - 1, axis=1)[:, :length]
        wanted = np.take_along_axis(likes, shown[part], axis=1)
        chosen[part] = (wanted + draw.gumbel(size=wanted.shape)).argmax(axis=1)
    log = {
        "user_id": np.repeat(data.query_index + 1, length),
        "movie_id": shown.ravel() + 1,
        "timestamp": np.repeat(data.interactions["timestamp"].to_numpy(), length),
        "request": np.repeat(np.arange(len(data)), length),
        "chosen": (np.arange(length) == chosen[:, None]).ravel(),
    }
    return from_tables(
        pa.table(log),
        query_id="user_id",
        candidate_id="movie_id",
        time="timestamp",
        chosen="chosen",
        request="request",
        queries=data.queries,
        candidates=data.candidates,
    )


def free_choices(events: Dataset, candidates: npt.NDArray[np.int64]) -> Dataset:
    """The same queries at the same times, with what they choose from the whole catalogue, by request."""
    own = candidates[events.interactions["request"].to_numpy()]
    return replace(events, candidate_index=own, exposures=None)


def run(setting: Setting, data: Dataset, log: Dataset, seed: int, epochs: int) -> tuple[int, dict[str, float]]:
    """The best epoch and the metrics of one model."""
    train, validation = split_by_time(split_by_time(log).train)
    query = tt.Tower(
        [tt.Category("user_id", dim=32), tt.Bucketized("timestamp", 50, dim=16), tt.Normalized("timestamp")], [64, 32]
    )
    candidate = tt.Tower([tt.Category("movie_id", dim=32), tt.Text("movie_title", dim=32)], [64, 32])
    model = tt.TwoTower(query, candidate)
    trainer = tt.Trainer(
        epochs=epochs,
        batch_size=512,
        optimizer=tt.AdamW(0.003, weight_decay=0.05),
        loss=setting.build(),
        early_stopping=tt.EarlyStopping(patience=epochs),
        monitor="all.mrr",
        seed=seed,
    )
    history = trainer.fit(model, train, validation, progress=False)
    logged = measure(ModelScorer(model), validation, train).scores
    free = measure(ModelScorer(model), free_choices(validation, data.candidate_index), train).scores
    scores = {
        "logged all.mrr": logged.all["mrr"],
        "free all.mrr": free.all["mrr"],
        "free all.top_100": free.all["top_100"],
        "exposed mrr": logged.exposed["mrr"],
    }
    return history.best.epoch, scores


def table_of(outcomes: list[Outcome]) -> Table:
    """Means over seeds, and differences to the same loss without explicit negatives."""
    table = Table("policy", "loss", "negatives", "weight", *METRICS, show_edge=False)
    scores = {(one.personal, one.setting, one.seed): one.scores for one in outcomes}
    seeds = sorted({one.seed for one in outcomes})
    for personal, setting in dict.fromkeys((one.personal, one.setting) for one in outcomes):
        base = Setting(setting.loss, 0, 1.0)
        cells = []
        for metric in METRICS:
            own = [scores[personal, setting, seed][metric] for seed in seeds]
            cell = f"{np.mean(own):.4f}"
            if setting != base:
                pairs = zip(own, [scores[personal, base, seed][metric] for seed in seeds], strict=True)
                cell += f" ({mean_interval([one - other for one, other in pairs])})"
            cells.append(cell)
        weight = f"{setting.weight:g}" if setting.count else ""
        table.add_row(f"{personal:g}", setting.loss, str(setting.count), weight, *cells)
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=3, default=[500, 800, 40_000], help="queries, candidates, events")
    parser.add_argument("--length", type=int, default=10, help="candidates in a list")
    parser.add_argument(
        "--personal", type=float, nargs="+", default=[0.0, 0.5], help="how much the policy knows of what a query likes"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--counts", type=int, nargs="+", default=[9])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "exposures.json")
    options = parser.parse_args()
    console, outcomes = Console(width=160), list[Outcome]()
    settings = [
        Setting(loss, count, weight)
        for loss in ("full", "in-batch")
        for count, weight in [(0, 1.0), *((count, weight) for count in options.counts for weight in options.weights)]
    ]
    queries, candidates, events = options.sizes
    for personal in options.personal:
        for seed in range(options.seeds):
            data = simulated(queries, candidates, events, seed=seed)
            log = with_lists(data, options.length, personal, seed)
            for setting in settings:
                outcomes.append(Outcome(personal, setting, seed, *run(setting, data, log, seed, options.epochs)))
                console.print(outcomes[-1], highlight=False, soft_wrap=True)
    console.print(table_of(outcomes))
    options.out.parent.mkdir(exist_ok=True)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "outcomes": outcomes,
    }
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
