"""The tuned recipe's models on test, over several split seeds and training seeds: means, intervals, depth by depth.

    python benchmarks/splits.py movielens-100k --layers 64,32 256,64 --split-seeds 42 43 44 45 46
    python benchmarks/splits.py benchmarks/depth-*.toml --split-seeds 42 43 44 45 46

Each model is trained as `twotower study` does it: the number of epochs is found on a part cut from train, the final
model is trained on all of train, and test is measured once. Models of the same split and seed are pairs. Prints tables
and writes JSON; an interrupted run goes on from the JSON.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from twotower.study.trained import train_by_recipe

from twotower.evaluation import ModelScorer, Scores, measure, measure_baselines
from twotower.evaluation.intervals import mean_interval
from twotower.files import write_file
from twotower.recipes.config import Config, SplitConfig, config_of
from twotower.training.callbacks import ProgressBar
from twotower.version import VERSION

HERE = Path(__file__).parent
METRICS = ("all.top_100", "unseen.top_100", "unseen.top_10", "unseen.ndcg_10")


class Outcome(msgspec.Struct, frozen=True):
    """A model, or a baseline, of one split on its test part; `name` is the layers or the baseline's."""

    name: str
    split_seed: int
    seed: int
    scores: Scores
    best_epoch: int = 0
    seconds: float = 0.0


class Report(msgspec.Struct):
    """What the JSON holds."""

    command: str
    identity: str
    versions: dict[str, str]
    outcomes: list[Outcome] = []


def with_layers(config: Config, layers: Sequence[str] | None) -> list[Config]:
    """The config with each of these stacks of layers; as it is where none are given."""
    stacks = [[int(width) for width in text.split(",")] for text in layers or []]
    models = [msgspec.structs.replace(config.model, layers=tuple(stack)) for stack in stacks]
    return [msgspec.structs.replace(config, model=model) for model in models] or [config]


def baselines(config: Config) -> list[Outcome]:
    """The baselines of one split."""
    torch.set_num_threads(1)
    parts = config.parts()
    rows, _ = measure_baselines(parts.test, parts.train)
    return [Outcome(name, config.split.seed, 0, found.scores) for name, found in rows.items()]


def model(config: Config, seed: int) -> list[Outcome]:
    """One model of one split."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    parts = config.parts()
    config = msgspec.structs.replace(config, split=parts.split)
    recipe = config.resolved_recipe(parts.train, parts.validation)
    recipe = msgspec.structs.replace(recipe, trainer=msgspec.structs.replace(recipe.trainer, seed=seed))
    quiet = ProgressBar(Console(quiet=True))
    trained = train_by_recipe(config, recipe, parts, progress=quiet)
    scores = measure(ModelScorer(trained.model), parts.test, parts.train).scores
    seconds = time.perf_counter() - started
    return [Outcome(str(list(config.model.layers)), config.split.seed, seed, scores, trained.best_epoch, seconds)]


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Means over splits and seeds; where there is one value, its interval over queries."""
    table = Table("", "models", *(metric.replace(".", "\n") for metric in METRICS), show_edge=False)
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        own = [outcome.scores for outcome in outcomes if outcome.name == name]
        cells = [mean_interval([scores.value(metric) for scores in own]) for metric in METRICS]
        if len(own) == 1:
            cells = [own[0].interval(*metric.split(".")) for metric in METRICS]
        table.add_row(name, str(len(own)), *map(str, cells))
    return table


def differences(outcomes: Sequence[Outcome], names: Sequence[str]) -> Table:
    """Each depth less the one before it, paired by split and seed."""
    table = Table("paired difference", "pairs", *(metric.replace(".", "\n") for metric in METRICS), show_edge=False)
    for shallow, deep in pairwise(names):
        by_pair = {(o.split_seed, o.seed): o.scores for o in outcomes if o.name == shallow}
        pairs = [
            (by_pair[o.split_seed, o.seed], o.scores)
            for o in outcomes
            if o.name == deep and (o.split_seed, o.seed) in by_pair
        ]
        cells = [mean_interval([b.value(metric) - a.value(metric) for a, b in pairs]) for metric in METRICS]
        table.add_row(f"{deep} − {shallow}", str(len(pairs)), *map(str, cells))
    return table


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="configs, or a built-in data set")
    parser.add_argument("--split", help="random:SHARE, time:SHARE or last-out; default: the config's")
    parser.add_argument("--split-seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each split")
    parser.add_argument("--layers", nargs="+", help="of each model; default: those of each config")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--name", default="models", help="of the JSON: results/splits-NAME.json beside this script")
    parser.add_argument("--out", type=Path, help="another path for the JSON")
    options = parser.parse_args()
    console = Console()
    models = [one for source in options.sources for one in with_layers(config_of(source), options.layers)]
    models.sort(key=lambda one: len(one.model.layers))
    names = [str(list(one.model.layers)) for one in models]
    out = options.out or HERE / "results" / f"splits-{options.name}.json"
    rule = options.split or models[0].split.rule
    identity = msgspec.json.encode([models, rule, VERSION]).decode()
    versions = {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()}
    report = Report(" ".join(["python", *sys.argv]), identity, versions)
    if out.exists() and (before := msgspec.json.decode(out.read_bytes(), type=Report)).identity == identity:
        report.outcomes = before.outcomes
    done = {(outcome.name, outcome.split_seed, outcome.seed) for outcome in report.outcomes}

    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        jobs = []
        for split in (SplitConfig(rule, seed) for seed in options.split_seeds):
            cut = [msgspec.structs.replace(one, split=split) for one in models]
            if ("popularity", split.seed, 0) not in done:
                jobs.append(pool.submit(baselines, cut[0]))
            for seed in range(options.seeds):
                wanted = [one for one, name in zip(cut, names, strict=True) if (name, split.seed, seed) not in done]
                jobs += [pool.submit(model, one, seed) for one in wanted]
        for number, job in enumerate(as_completed(jobs), start=1):
            for outcome in job.result():
                report.outcomes.append(outcome)
                console.print(
                    f"{number}/{len(jobs)} {outcome.name}, split {outcome.split_seed}, seed {outcome.seed}: "
                    + ", ".join(f"{metric} {outcome.scores.value(metric):.4f}" for metric in METRICS)
                    + f", {outcome.seconds:.0f} s",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            write_file(out, msgspec.json.format(msgspec.json.encode(report), indent=1))
    report.outcomes.sort(key=lambda o: (names.index(o.name) if o.name in names else -1, o.split_seed, o.seed))
    write_file(out, msgspec.json.format(msgspec.json.encode(report), indent=1))
    console.print(table_of(report.outcomes))
    console.print(differences(report.outcomes, names))
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
