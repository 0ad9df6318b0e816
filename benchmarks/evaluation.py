"""Time of a validation and its parts, compared with the floor.

    python benchmarks/evaluation.py --data movielens-100k --layers 32 --threads 2 --repetitions 9

An untrained model with the tutorial's features (training does not change the speed) is validated on 20% of the data:
the query of every event and the catalogue are embedded, all scores are computed, and the ranks are counted under both
protocols. The floor is the number of operations of the products with the catalogue and of the dense layers, divided by
the speed of a matrix product in cache. `every metric` is what `evaluate` measures for one model, including intervals,
slices and lists.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measuring import rates, readable, time_alternately, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from twotower import Tower, TwoTower
from twotower.data import Dataset, Seen, builtin, split_random
from twotower.evaluation import ModelScorer, Validation, measure, rank_metrics
from twotower.evaluation.ranking import DotProducts, Ranker
from twotower.recipes.inputs import InputPlan, candidate_columns, features_of, query_columns

DIM = 32


def tutorial_model(train: Dataset, layers: list[int]) -> TwoTower:
    """A model with the tutorial's features and these layers."""
    plan = InputPlan("tutorial", "before", DIM, 0.0)
    query, candidate = query_columns(train, plan), candidate_columns(train, plan)
    return TwoTower(Tower(features_of(query), layers), Tower(features_of(candidate), layers)).learn(train)


def operations(model: TwoTower, events: int, candidates: int) -> tuple[float, float]:
    """Floating-point operations of the products with the catalogue, and of the dense layers."""
    layers = [
        rows * 2 * layer.in_features * layer.out_features
        for rows, tower in ((events, model.query), (candidates, model.candidate))
        for layer in tower.modules()
        if isinstance(layer, nn.Linear)
    ]
    return 2.0 * events * candidates * model.query.width, float(sum(layers))


def products(score: DotProducts, ranker: Ranker) -> None:
    """Computes all scores, in the same blocks as the ranker, and discards them."""
    rooms: dict[int, Tensor] = {}
    for block in ranker.blocks:
        rows = len(block.numbers)
        room = rooms.setdefault(rows, score.queries.new_empty(rows, score.transposed.shape[1]))
        score.write(block.numbers, room)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="movielens-100k", help="a built-in data set, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--layers", default="32", help="widths of the dense layers, such as 128,64,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/evaluation.json beside this script")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speed = rates()
    train, test = split_random(builtin.load(options.data), test=0.2, seed=42)
    model = tutorial_model(train, [int(width) for width in options.layers.split(",")])
    validation = Validation(model, test, train)

    def embedded() -> tuple[Tensor, Tensor]:
        return (
            model.embed_side(validation.queries, model.query_vectors),
            model.embed_side(validation.candidates, model.candidate_vectors),
        )

    score = DotProducts(*embedded())
    ranker = Ranker(test, Seen.of(train))
    ranks = ranker.ranks(score)
    timings = time_alternately(
        {
            "validation": lambda: validation.measure(model),
            "embedding": embedded,
            "ranks": lambda: ranker.ranks(score),
            "products of the ranks alone": lambda: products(score, ranker),
            "metrics of the ranks": lambda: [rank_metrics(own) for own in ranks],
            "every metric": lambda: measure(ModelScorer(model), test, train),
        },
        options.repetitions,
    )
    events, candidates = len(test), test.candidates.num_rows
    floors = [amount / speed.flops for amount in operations(model, events, candidates)]
    whole = timings["validation"].median
    table = Table("", "median", "of the validation", show_edge=False)
    for name, timing in timings.items():
        table.add_row(name, str(timing), f"{timing.median / whole:.0%}")
    table.add_row("floor", readable(sum(floors)), f"{sum(floors) / whole:.0%}")
    console = Console()
    console.print(f"{events:,} events × {candidates:,} candidates × {model.query.width}, {options.threads} threads")
    console.print(table)
    found = {
        "data": options.data,
        "layers": options.layers,
        "events": events,
        "candidates": candidates,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "rates": speed,
        "timings": timings,
        "floor": {"products": floors[0], "layers": floors[1], "validation over floor": whole / sum(floors)},
    }
    console.print(f"written to {write_report('evaluation', found, options.out)}")


if __name__ == "__main__":
    main()
