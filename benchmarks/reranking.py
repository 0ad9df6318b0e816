"""Two stages: what re-ranking with a head adds to the towers alone, on MovieLens 100K and simulated data.

    python benchmarks/reranking.py movielens-100k --seeds 0 1 2
    python benchmarks/reranking.py simulated:1000,800,30000 --seeds 0 1 2

MovieLens is split by each user's last event, the simulated data by time. The towers have the inputs of the tuned
recipe, from before each event only. The ranker's negatives and the number of re-ranked candidates are chosen with the
first seed, by NDCG@10 (unseen) on a validation part split from train by the same rule. Then, for each seed, the chosen
model and towers without a ranker are trained on all of train and measured on test. Results are written after each seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec
from measuring import write_report
from rich.console import Console
from rich.table import Table

from twotower import Ranking, Rerank, Retrieval, StackHead, Trainer, TwoTower
from twotower.data import Dataset
from twotower.evaluation import Comparison, ModelScorer, Outcomes, Pair, compare, measure, verdict_sentences
from twotower.evaluation.metrics import rank_metrics
from twotower.evaluation.two_stages import two_stage_outcomes
from twotower.experiments.train import for_serving
from twotower.recipes.config import Config, DataConfig, SplitConfig
from twotower.recipes.parts import Parts

HEAD = StackHead(reads="features", layers=(64, 32))
RANKERS = {
    "uniform negatives": Ranking(negatives=10, head=HEAD),
    "the retriever's negatives": Ranking(negatives=10, negatives_from="retriever", head=HEAD),
}
COUNTS = 50, 200
"""Numbers of re-ranked candidates to try."""

RULES = {"movielens-100k": "last-out"}
"""Split rules; other data are split by time."""

METRICS = "ndcg_10", "top_10"

ALONE = "towers trained alone"


class Found(msgspec.Struct, frozen=True):
    """Results for one data set.

    Attributes:
        data: Name of the data set.
        split: Split rule.
        events: Number of test events.
        validation: NDCG@10 (unseen) on the validation part, for the towers alone and for each ranker and count.
        ranker: The chosen ranker.
        n: The chosen number of re-ranked candidates.
        scores: By seed: metrics of `towers trained alone`, `retrieval` and `re-ranked` under both protocols.
        comparisons: Comparisons of re-ranking with the other two.
        verdicts: The comparisons as sentences.
    """

    data: str
    split: str
    events: int
    validation: dict[str, float]
    ranker: str
    n: int
    scores: dict[int, dict[str, dict[str, dict[str, float]]]]
    comparisons: list[Comparison]
    verdicts: list[str]


def config_of(data: str) -> Config:
    """The config, without the tasks."""
    return for_serving(Config(data=DataConfig(name=data), split=SplitConfig(rule=RULES.get(data, "time:0.2"))))


def trained(config: Config, parts: Parts, train: Dataset, ranker: Ranking | None, epochs: int, seed: int) -> TwoTower:
    """Trains a model with the tuned recipe, with a ranker or the towers alone."""
    recipe = config.resolved_recipe(parts.train, parts.validation)
    tasks = () if ranker is None else (Retrieval(), ranker)
    trainer: Trainer = msgspec.structs.replace(
        recipe.trainer, epochs=epochs, early_stopping=None, tasks=tasks, seed=seed
    )
    model = config.model.build(parts.train, recipe)
    trainer.fit(model, train)
    return model


def ndcg(outcomes: Outcomes) -> float:
    """NDCG@10, unseen."""
    return rank_metrics(outcomes.ranks[1].astype(float), [10], outcomes.weights)["ndcg_10"]


def chosen(
    config: Config, parts: Parts, options: argparse.Namespace, console: Console
) -> tuple[str, int, dict[str, float]]:
    """The ranker and count that are best on the validation part, and the NDCG@10 of all of them."""
    log, validation = parts.fitted_and_validation()
    fitted = log.read()
    seed = options.seeds[0]
    alone = trained(config, parts, fitted, None, options.epochs, seed)
    found = {ALONE: ndcg(measure(ModelScorer(alone), validation, fitted).outcomes)}
    reranked: dict[tuple[str, int], float] = {}
    for name, ranker in RANKERS.items():
        model = trained(config, parts, fitted, ranker, options.epochs, seed)
        for n in COUNTS:
            towers, both = two_stage_outcomes(model, validation, fitted, Rerank(n).resolved(model.heads))
            found[f"{name}: retrieval"] = ndcg(towers)
            found[f"{name}: n = {n}"] = reranked[name, n] = ndcg(both)
    for name, value in found.items():
        console.print(f"  validation, {name}: {value:.4f}", highlight=False)
    return *max(reranked, key=lambda one: reranked[one]), found


def studied(data: str, options: argparse.Namespace, console: Console) -> Iterator[Found]:
    """Chooses on validation, then measures on test seed by seed; yields the results so far."""
    config = config_of(data)
    parts = config.parts()
    train, test = parts.train.read(), parts.test
    console.print(f"{data}: {len(train):,} train, {len(test):,} test, {parts.rule}")
    ranker, n, validation = chosen(config, parts, options, console)
    scores: dict[int, dict[str, dict[str, dict[str, float]]]] = {}
    outcomes: dict[str, list[Outcomes]] = {name: [] for name in (ALONE, "retrieval", "re-ranked")}
    for seed in options.seeds:
        alone = trained(config, parts, train, None, options.epochs, seed)
        model = trained(config, parts, train, RANKERS[ranker], options.epochs, seed)
        own = measure(ModelScorer(alone), test, train).outcomes
        found = [own, *two_stage_outcomes(model, test, train, Rerank(n).resolved(model.heads))]
        for name, one in zip(outcomes, found, strict=True):
            outcomes[name].append(one)
        scores[seed] = {
            name: {
                protocol: rank_metrics(one.ranks[place].astype(float), [10], one.weights)
                for place, protocol in enumerate(("all", "unseen"))
            }
            for name, one in zip(outcomes, found, strict=True)
        }
        shown = ", ".join(f"{name} {own['unseen']['ndcg_10']:.4f}" for name, own in scores[seed].items())
        console.print(f"  test, seed {seed}: {shown}", highlight=False)
        pairs = [
            Pair("re-ranking", outcomes["re-ranked"], rival, outcomes[name])
            for name, rival in (("retrieval", "retrieval by the same model"), (ALONE, ALONE))
        ]
        comparisons = compare(pairs, *METRICS)
        verdicts = [
            sentence
            for metric in METRICS
            for sentence in verdict_sentences([one for one in comparisons if one.metric == metric])
        ]
        yield Found(data, parts.rule, len(test), validation, ranker, n, dict(scores), comparisons, verdicts)


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="movielens-100k, simulated or another built-in data set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/reranking-DATA.json beside this script")
    options = parser.parse_args()
    console = Console(width=120)
    name = f"reranking-{options.data.partition(':')[0]}"
    used = {"seeds": options.seeds, "epochs": options.epochs}
    for found in studied(options.data, options, console):
        written = write_report(name, {"options": used, "found": found}, options.out)
    table = Table("unseen, NDCG@10", *(f"seed {seed}" for seed in found.scores), show_edge=False)
    for name in next(iter(found.scores.values())):
        table.add_row(name, *(f"{own[name]['unseen']['ndcg_10']:.4f}" for own in found.scores.values()))
    console.print(table)
    for sentence in found.verdicts:
        console.print(sentence, highlight=False)
    console.print(f"written to {written}", soft_wrap=True)


if __name__ == "__main__":
    main()
