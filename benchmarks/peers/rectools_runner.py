"""RecTools' runs of the race: `dssm` or `sasrec`, as named on the command line.

DSSM has its default settings, except the width; users and items are described by their ids alone. Its loss compares one
bought with one random item per user, so an epoch has one such pair for each user, and items rank by their Euclidean
distance. SASRec has its default settings, except the width; on a sequence log, sampled softmax and histories of 20,
because the default, all items at each of 100 positions, would need gigabytes for a batch.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from laps import WIDTH, Clock, Course, FloatArray, TimeUpError, introduce, with_unknown
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import DSSMModel, SASRecModel

BEGIN = pd.Timestamp("2000-01-01")
SPARSE = {"loss": "sampled_softmax", "n_negatives": 256, "session_max_len": 20}
FOREVER = 1_000_000
"""Epochs: until the time is up."""


class Watch(Callback):  # type: ignore[misc]
    """Counts the steps.

    Args:
        course: The rules.
        embed: Embeds queries and items.
    """

    def __init__(self, course: Course, embed: Any) -> None:
        self.course, self.embed = course, embed

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Starts the clock."""

        def export() -> tuple[FloatArray, FloatArray]:
            module.eval()
            with torch.no_grad():
                embeddings: tuple[FloatArray, FloatArray] = self.embed(module)
            module.train()
            return embeddings

        self.clock = Clock(self.course, export, len(trainer.train_dataloader))
        self.clock.start()

    def on_train_batch_end(self, *_: Any) -> None:
        """Counts a step."""
        self.clock.step()


def events_of(course: Course) -> pd.DataFrame:
    """The training events, a day apart."""
    return pd.DataFrame(
        {
            Columns.User: course.user,
            Columns.Item: course.item,
            Columns.Weight: 1.0,
            Columns.Datetime: BEGIN + pd.to_timedelta(course.position, unit="D"),
        }
    )


def sparse_tensor(matrix: Any) -> torch.Tensor:
    """A SciPy matrix as a tensor."""
    coordinates = matrix.tocoo()
    places = torch.from_numpy(np.stack([coordinates.row, coordinates.col]).astype(np.int64))
    return torch.sparse_coo_tensor(places, torch.from_numpy(coordinates.data.astype(np.float32)), matrix.shape)


def dssm(course: Course) -> None:
    """Trains DSSM."""
    events = events_of(course)
    tables = {
        f"{side}_features_df": pd.DataFrame(
            {"id": events[column].unique(), "feature": "own", "value": events[column].unique()}
        )
        for side, column in (("user", Columns.User), ("item", Columns.Item))
    }
    dataset = Dataset.construct(events, **tables, cat_user_features=["own"], cat_item_features=["own"])
    known = dataset.item_id_map.external_ids.astype(np.int64)
    users = dataset.user_id_map.convert_to_internal(course.test_user)
    inputs = [
        sparse_tensor(matrix)
        for matrix in (
            dataset.user_features.get_sparse(),
            dataset.get_user_item_matrix(),
            dataset.item_features.get_sparse(),
        )
    ]

    def embed(module: Any) -> tuple[FloatArray, FloatArray]:
        queries, items = module.user_net(*inputs[:2]).numpy()[users], module.item_net(inputs[2]).numpy()
        # The nearest item is the one with the highest q·c - |c|²/2.
        queries = np.concatenate([queries, np.ones((len(queries), 1), dtype=np.float32)], axis=1)
        items = np.concatenate([items, -(items**2).sum(axis=1, keepdims=True) / 2], axis=1)
        return with_unknown(items, known, queries, course.items)

    introduce(course, "RecTools", "torch", "pytorch-lightning", n_factors=WIDTH)
    model = DSSMModel(
        n_factors=WIDTH,
        max_epochs=FOREVER,
        trainer_accelerator="cpu",
        callbacks=[Watch(course, embed)],
        loggers=False,
    )
    model.fit(dataset)


def sasrec(course: Course) -> None:
    """Trains SASRec."""
    dataset = Dataset.construct(events_of(course))
    prepared: dict[str, Any] = {}

    def embed(module: Any) -> tuple[FloatArray, FloatArray]:
        if not prepared:
            everyone = model.data_preparator.transform_dataset_u2i(dataset, np.unique(course.test_user))
            ids = model.data_preparator.item_id_map.external_ids
            extra = model.data_preparator.n_item_extra_tokens
            prepared.update(
                loader=model.data_preparator.get_dataloader_recommend(everyone, 256),
                rows=everyone.user_id_map.convert_to_internal(course.test_user),
                extra=extra,
                known=ids[extra:].astype(np.int64),
            )
        queries, items = module._get_user_item_embeddings(prepared["loader"], "cpu")
        own = queries.numpy()[prepared["rows"]]
        return with_unknown(items.numpy()[prepared["extra"] :], prepared["known"], own, course.items)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=FOREVER,
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
            callbacks=[Watch(course, embed)],
        )

    settings = SPARSE if course.is_sequence else {}
    introduce(course, "RecTools", "torch", "pytorch-lightning", n_factors=WIDTH, **settings)
    model = SASRecModel(n_factors=WIDTH, get_trainer_func=trainer, **settings)
    model.fit(dataset)


def main() -> None:
    """Trains."""
    course = Course.read()
    torch.set_num_threads(course.threads)
    seed_everything(0)
    with suppress(TimeUpError):
        {"dssm": dssm, "sasrec": sasrec}[sys.argv[2]](course)


if __name__ == "__main__":
    main()
