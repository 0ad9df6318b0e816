"""`InterruptAfter`: a training that the user interrupts."""

from __future__ import annotations

from twotower.training import Callback, Epoch, TrainingState


class InterruptAfter(Callback):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        if epoch.epoch == self.epoch:
            raise KeyboardInterrupt
