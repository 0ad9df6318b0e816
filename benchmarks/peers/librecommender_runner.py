"""LibRecommender's run of the race: its `TwoTower` with in-batch softmax.

Settings are its own defaults, except embeddings and layers of the race's size, and normalised embeddings with a
temperature of 0.1, which its documentation recommends. Its two towers read ids only, so on a sequence log they know the
user's id but not the order of the events.
"""

from __future__ import annotations

import os

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

from contextlib import suppress
from typing import Any

import libreco.training.tf_trainer as training
import numpy as np
import pandas as pd
from laps import LAYERS, WIDTH, Clock, Counted, Course, FloatArray, TimeUpError, introduce, with_unknown
from libreco.algorithms import TwoTower
from libreco.data import DatasetPure

SETTINGS = {"norm_embed": True, "temperature": 0.1}


def main() -> None:
    """Trains."""
    course = Course.read()
    introduce(course, "LibRecommender", "tensorflow-cpu", **SETTINGS, layers=LAYERS)
    events = pd.DataFrame({"user": course.user, "item": course.item, "label": 1})
    train, info = DatasetPure.build_trainset(events)
    threads = {"intra_op_parallelism_threads": course.threads, "inter_op_parallelism_threads": course.threads}
    model = TwoTower(
        "ranking",
        info,
        loss_type="softmax",
        embed_size=WIDTH,
        hidden_units=LAYERS,
        n_epochs=1_000_000,  # until the time is up
        tf_sess_config=threads,
        **SETTINGS,
    )
    known = np.array([info.id2item[number] for number in range(info.n_items)])
    rows = np.array([info.user2id[user] for user in range(course.users)])[course.test_user]

    def export() -> tuple[FloatArray, FloatArray]:
        model.set_embeddings()
        return with_unknown(model.item_embeds_np, known, model.user_embeds_np[rows], course.items)

    clock = Clock(course, export, -(-len(events) // model.batch_size))
    loader_of = training.get_batch_loader

    def counted_loader(*arguments: Any) -> Counted:
        loader = clock.counted(loader_of(*arguments))
        clock.start()
        return loader

    training.get_batch_loader = counted_loader  # its trainer has no callbacks
    with suppress(TimeUpError):
        model.fit(train, neg_sampling=True, verbose=0)


if __name__ == "__main__":
    main()
