"""torch-rechub's run of the race: its `DSSM` with in-batch negatives.

Settings are those of its tutorial for DSSM, except embeddings and layers of the race's size. On a sequence log, the
user tower also reads the mean of the items before, as in the tutorial.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from laps import LAYERS, WIDTH, Clock, Course, FloatArray, TimeUpError, introduce
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

BATCH, HISTORY = 256, 50
SETTINGS = {"in_batch_neg": True, "in_batch_neg_ratio": 3, "optimizer_params": {"lr": 1e-4, "weight_decay": 1e-6}}


def inputs(course: Course) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of train and test; ids begin with 1, because 0 is the padding."""
    train = {"user_id": course.user + 1, "movie_id": course.item + 1}
    test = {"user_id": course.test_user + 1}
    if course.is_sequence:
        train["hist_movie_id"], test["hist_movie_id"] = (history + 1 for history in course.histories(HISTORY))
        train = {name: column[course.position > 0] for name, column in train.items()}
    return train, test


def main() -> None:
    """Trains."""
    course = Course.read()
    torch.set_num_threads(course.threads)
    torch.manual_seed(0)
    introduce(course, "torch-rechub", "torch", **SETTINGS, batch=BATCH, layers=LAYERS)
    train, test = inputs(course)
    user_features = [SparseFeature("user_id", vocab_size=course.users + 1, embed_dim=WIDTH)]
    item_features = [SparseFeature("movie_id", vocab_size=course.items + 1, embed_dim=WIDTH)]
    if course.is_sequence:
        user_features.append(
            SequenceFeature("hist_movie_id", course.items + 1, WIDTH, pooling="mean", shared_with="movie_id")
        )
    tower = {"dims": list(LAYERS), "activation": "prelu"}
    model = DSSM(user_features, item_features, temperature=0.02, user_params=tower, item_params=dict(tower))
    trainer = MatchTrainer(model, mode=0, n_epoch=1_000_000, device="cpu", model_path=str(course.folder), **SETTINGS)
    every_item = {"movie_id": np.arange(course.items) + 1}
    generator = MatchDataGenerator(x=train, y=np.ones(len(train["movie_id"])))
    loader, _, _ = generator.generate_dataloader(test, every_item, batch_size=BATCH, num_workers=0)

    @torch.no_grad()
    def export() -> tuple[FloatArray, FloatArray]:
        model.eval()
        queries, items = (
            embed({name: torch.from_numpy(column) for name, column in columns.items()}).numpy()
            for embed, columns in ((model.user_tower, test), (model.item_tower, every_item))
        )
        model.train()
        return queries, items

    clock = Clock(course, export, len(loader))
    clock.start()
    with suppress(TimeUpError):
        trainer.fit(clock.counted(loader))


if __name__ == "__main__":
    main()
