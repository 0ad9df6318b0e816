"""Named changes of the tuned recipe, each trained on a part of train and validated on the rest: what helps, what not.

    python benchmarks/trials.py inputs --data movielens-100k --seeds 3

A set is a TOML file beside this script, `trials-SET.toml`: a table `base` of config keys, and one table a trial with
the keys that it changes. Every trial validates as the tuned recipe does, on a part cut from train by the split's own
rule; the test part is never touched. Prints a table and writes JSON with every epoch of every trial.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import tomllib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from twotower.data import builtin
from twotower.evaluation.history import TrainingHistory
from twotower.evaluation.intervals import mean_interval
from twotower.recipes.config import Config
from twotower.version import VERSION

HERE = Path(__file__).parent


class Outcome(msgspec.Struct, frozen=True):
    """One trial with one seed."""

    trial: str
    seed: int
    best_epoch: int
    scores: dict[str, float]
    seconds: float
    history: TrainingHistory


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `change` says put over it, table by table; a table with a `kind` replaces one of another."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind") in (None, old.get("kind")):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def run(trial: str, config: Config, data: str, seed: int) -> Outcome:
    """Trains one trial on a part of train and validates it on the rest."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    rule = config.split.parsed()
    train = rule(builtin.load(data)).train
    recipe = config.resolved_recipe(train)
    trainer = msgspec.structs.replace(recipe.trainer, seed=seed)
    history = trainer.fit(config.model.build(train, recipe), *rule(train))
    best = history.best
    assert best.validation is not None
    names = ("all.top_100", "unseen.top_100", "unseen.top_10", "unseen.ndcg_10")
    scores = {name: best.validation.value(name) for name in names}
    return Outcome(trial, seed, best.epoch, scores, time.perf_counter() - started, history)


def table_of(trials: list[str], outcomes: list[Outcome]) -> Table:
    """Means over the seeds."""
    table = Table("trial", show_edge=False)
    for name in ("best epoch", *outcomes[0].scores, "seconds"):
        table.add_column(name.replace(".", "\n"), justify="right")
    for trial in trials:
        own = [outcome for outcome in outcomes if outcome.trial == trial]
        scores = [str(mean_interval([outcome.scores[name] for outcome in own])) for name in outcomes[0].scores]
        epochs = "/".join(str(outcome.best_epoch) for outcome in own)
        table.add_row(trial, epochs, *scores, f"{statistics.median(outcome.seconds for outcome in own):.0f}")
    return table


def main() -> None:
    """Runs a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="name of the set: trials-SET.toml")
    parser.add_argument(
        "--data", default="movielens-100k", help="a built-in data set, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--split", default="random:0.2", help="random:SHARE, time:SHARE or last-out")
    parser.add_argument("--split-seed", type=int, default=42)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each trial")
    parser.add_argument("--only", nargs="*", help="names of trials; default: all of the set")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, one thread each")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/trials-SET-DATA-SPLIT.json")
    options = parser.parse_args()
    console = Console()

    tables = tomllib.loads((HERE / f"trials-{options.set}.toml").read_text(encoding="utf-8"))
    base = tables.pop("base", {})
    split = {"rule": options.split, "seed": options.split_seed}
    wanted = [name for name in tables if not options.only or name in options.only]
    configs = {name: msgspec.convert(merged(base, tables[name]) | {"split": split}, Config) for name in wanted}
    outcomes = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, name, config, options.data, seed)
            for name, config in configs.items()
            for seed in range(options.seeds)
        ]
        for job in as_completed(jobs):
            outcome = job.result()
            outcomes.append(outcome)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in outcome.scores.items())
            console.print(
                f"{len(outcomes)}/{len(jobs)} {outcome.trial}, seed {outcome.seed}: {shown}, "
                f"epoch {outcome.best_epoch}, {outcome.seconds:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
    outcomes.sort(key=lambda outcome: (wanted.index(outcome.trial), outcome.seed))
    console.print(table_of(wanted, outcomes))
    part = options.split.partition(":")[0]
    name = f"trials-{options.set}-{options.data}-{part}.json".replace(":", "-").replace(",", "-")
    out = options.out or HERE / "results" / name
    out.parent.mkdir(exist_ok=True)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "split": split,
        "versions": {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
        "machine": f"{platform.machine()}, {options.jobs} trials at a time, one thread each",
        "trials": {name: merged(base, tables[name]) for name in wanted},
        "outcomes": outcomes,
    }
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
