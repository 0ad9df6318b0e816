"""Cross features with a deep and cross network, as *Deep & Cross Network* of TensorFlow Recommenders.

    python examples/tutorials/dcn.py

First a regression whose answer is a sum of products of three numbers, by one cross layer, and by a large stack of dense
layers in a twenty-fifth of the epochs, as each takes far longer. Then ratings of MovieLens 100K by six features: a full
cross layer, one of low rank, and none. Epochs and decay were chosen on a fifth of train.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from beside import compare, options, split, timed
from torch import nn

import twotower as tt
from twotower.evaluation.intervals import mean_interval
from twotower.model import Cross

THEIRS_TOY = {"cross": 0.0009, "deep": 0.0223}

THEIRS = {"full rank": 0.9468, "low rank": 0.9491, "no cross layer": 0.9481}

HEADS: dict[str, tt.CrossHead | tt.StackHead] = {
    "full rank": tt.CrossHead(count=1, layers=(192, 192), input_dropout=0.2),
    "low rank": tt.CrossHead(count=1, rank=20, layers=(192, 192), input_dropout=0.2),
    "no cross layer": tt.StackHead(reads="features", layers=(192, 192, 192), input_dropout=0.2),
}

TRAINER = tt.Trainer(
    epochs=10, batch_size=512, optimizer=tt.AdamW(0.005, weight_decay=0.1), schedule=tt.Cosine(warmup=0.02)
)

FloatArray = npt.NDArray[np.float64]


def toy_data(size: int = 100_000) -> tuple[FloatArray, FloatArray]:
    """Where a customer lives, bananas and cookbooks bought, `[size, 3]`; how likely they buy a blender, `[size, 1]`."""
    draw = np.random.RandomState(42)  # the tutorial's own numbers
    country, bananas, cookbooks = (draw.randint(many, size=[size, 1]) / many for many in (200, 24, 6))
    likely = 0.1 * country + 0.4 * bananas + 0.7 * cookbooks
    likely += 0.1 * country * bananas + 3.1 * bananas * cookbooks + 0.1 * cookbooks * cookbooks
    return np.hstack([country, bananas, cookbooks]), likely


class OneCross(nn.Module):
    """One cross layer of width 3, and a linear layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.cross, self.last = Cross(3), nn.Linear(3, 1)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """`[n, 3]` to `[n, 1]`."""
        answers: torch.Tensor = self.last(self.cross(numbers, numbers))
        return answers


def toy_error(model: nn.Module, epochs: int, rate: float) -> float:
    """RMSE on the last tenth of the data, after training with Adam and a rate that falls to 0."""
    numbers, likely = (torch.from_numpy(values).float() for values in toy_data())
    asked = slice(90_000, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 90)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(90_000), 1000):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.mse_loss(model(numbers[rows]), likely[rows]))
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(numbers[asked]), likely[asked]).sqrt())


def features() -> tt.TwoTower:
    """The six features of the original, a table each."""
    query = [tt.Category(name, 32) for name in ("user_id", "zip_code", "occupation", "gender")]
    return tt.TwoTower(
        tt.Tower([*query, tt.Bucketized("age", 7, 32)], [32]), tt.Tower([tt.Category("movie_id", 32)], [32])
    )


def main() -> None:
    """Both parts."""
    given = options(__doc__, epochs=4)
    torch.manual_seed(0)
    deep = [nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
    toys = {
        "cross": (OneCross(), 25 * given.epochs, 0.2),  # 100 epochs by default, as in the original
        "deep": (nn.Sequential(*deep, nn.Linear(128, 1)), given.epochs, 0.001),  # which takes far longer an epoch
    }
    for name, (toy, epochs, rate) in toys.items():
        count = sum(one.numel() for one in toy.parameters())
        with timed(f"the regression, {name}"):
            compare(f"RMSE of the regression, {name}, {count} numbers", THEIRS_TOY[name], toy_error(toy, epochs, rate))

    train, test = split(given.events)
    for name, head in HEADS.items():
        rating = tt.Rating(target="rating", head=head)
        errors = []
        for seed in given.seeds:
            model = features()
            with timed(f"training, {name}"):
                settings = msgspec.structs.replace(TRAINER, seed=seed, tasks=(rating,))
                settings.fit(model, train, stop_after=given.epochs)
            found = tt.evaluate(model, test, exclude=train, tasks=[rating], baselines="none")
            errors.append(found.task("rating").model.metrics["rmse"])
        compare(f"RMSE, {name}", THEIRS[name], mean_interval(errors).mean)


if __name__ == "__main__":
    main()
