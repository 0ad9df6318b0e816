"""twotower's run of the race, with the recipe named on the command line.

`tuned` is the default. Its learning rate follows a schedule over a fixed number of epochs, so its training ends by
itself. `tutorial` has the model, optimiser and loss of TensorFlow Recommenders' tutorial.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import msgspec
import numpy as np
import torch
from laps import Clock, Course, FloatArray, TimeUpError, introduce

from twotower.recipes.config import Config, DataConfig
from twotower.training.callbacks import Callback, TrainingState


class Watch(Callback):
    """Counts the steps.

    Args:
        clock: The clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_start(self, state: TrainingState) -> None:
        """Starts the clock."""
        self.clock.steps_per_epoch = state.steps_per_epoch
        self.clock.start()

    def on_step(self, state: TrainingState) -> None:
        """Counts a step."""
        self.clock.step()

    def on_end(self, state: TrainingState) -> None:
        """Saves the last lap."""
        self.clock.finish()


def main() -> None:
    """Trains."""
    course, name = Course.read(), sys.argv[2]
    torch.set_num_threads(course.threads)
    paths = {part: str(course.folder / f"{part}.parquet") for part in ("train", "test", "items")}
    data = DataConfig(
        interactions=paths["train"],
        test=paths["test"],
        candidates=paths["items"],
        query_id="user",
        candidate_id="item",
        time="position" if course.is_sequence else None,
    )
    config = msgspec.convert({"data": data, "recipe": name}, Config)
    parts = config.parts()
    train, test = parts.train.in_memory, parts.test.in_memory
    assert train is not None
    assert test is not None
    recipe = config.resolved_recipe(train)
    model = config.model.build(train, recipe)

    def export() -> tuple[FloatArray, FloatArray]:
        return model.embed_queries(test).numpy(), model.embed_candidates(test.candidates).numpy()

    introduce(course, "twotower", "torch", recipe=name, batch=recipe.trainer.batch_size, layers=recipe.layers)
    assert np.array_equal(train.candidates["item"].to_numpy(), np.arange(course.items))
    clock = Clock(course, export, steps_per_epoch=1.0)
    trainer = msgspec.structs.replace(recipe.trainer, early_stopping=None, validate_every=1)
    with suppress(TimeUpError):
        trainer.fit(model, train, callbacks=[Watch(clock)])


if __name__ == "__main__":
    main()
