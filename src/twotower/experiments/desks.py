"""A desk that hands out a fixed list of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from twotower.errors import TwoTowerError
from twotower.experiments.orders import AnyRun, BaselineRun, Order, is_done, key_of
from twotower.experiments.pool import Ended, Job
from twotower.experiments.store import Store


@dataclass(frozen=True)
class Waiting:
    """A run that waits to be done.

    Attributes:
        label: Name shown while it runs.
        order: The run, with its store.
        key: Name of its folder in the store.
    """

    label: str
    order: Order
    key: str

    @property
    def cost(self) -> float:
        """A rough measure of its duration: the longest runs start first."""
        run = self.order.run
        return 0.0 if isinstance(run, BaselineRun) else 1.0 + sum(run.config.model.layers or ())


def waiting_for(label: str, run: AnyRun, store: Store, data: str) -> Waiting:
    """Makes a `Waiting` for a run.

    Args:
        label: Name shown while it runs.
        run: The run.
        store: Where its outcome is kept.
        data: Identity of the parts it runs on.
    """
    return Waiting(label, Order(run, str(store.folder), data), key_of(run, data))


class ListDesk:
    """Hands out every run that is not yet in the store, once; any failure stops the pool.

    Args:
        wanted: The runs; duplicates are allowed.
        store: Where their outcomes are kept.
    """

    def __init__(self, wanted: Sequence[Waiting], store: Store) -> None:
        self.store = store
        self._by_key = {waiting.key: waiting for waiting in wanted}
        left = [waiting for waiting in self._by_key.values() if not is_done(waiting.order.run, store, waiting.key)]
        self._queue = sorted(left, key=lambda waiting: -waiting.cost)

    def next_job(self) -> Job | None:
        """The next run."""
        if not self._queue:
            return None
        waiting = self._queue.pop(0)
        return Job(waiting.label, msgspec.Raw(msgspec.json.encode(waiting.order)), waiting.key)

    def reported(self, job: Job, step: int, value: float) -> bool:
        """Never stops a run."""
        del job, step, value
        return True

    def finished(self, job: Job, ended: Ended) -> None:
        """Handles the end of a run.

        Raises:
            TwoTowerError: The run failed.
        """
        if ended.how != "done":
            raise TwoTowerError(f"{job.label}: {ended.reason}")
        self.succeeded(self._by_key[job.key])

    def succeeded(self, waiting: Waiting) -> None:
        """Called after each successful run."""
