"""`Engine`: one thread that answers requests and batches those that are waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twotower.errors import StoreUnavailableError, StoreVersionError, TwoTowerError
from twotower.retrieval.answers import Answer, Filters
from twotower.retrieval.requests import Request
from twotower.retrieval.retriever import Retriever
from twotower.serving.refusals import Refusal
from twotower.threads import adapted_threads

MAX_GROUP = 64
"""Batch waiting requests up to this many queries; a request with more is large."""

Result = Any


class Wanted(Filters, frozen=True, kw_only=True):
    """How many candidates are wanted, and the filters; requests with equal values can be batched."""

    k: int

    def recommend(self, retriever: Retriever, queries: Sequence[Request]) -> list[Answer]:
        """The answers, one per query."""
        return retriever.recommend_many(queries, **self.arguments)

    @property
    def may_join(self) -> bool:
        """Whether it can be batched; requests with id lists cannot, as these are rarely equal and slow to compare."""
        return not self.exclude and self.allow is None


@dataclass(eq=False)
class _Job:
    """One request: recommendations for its queries, or a function to call with the retriever."""

    future: asyncio.Future[Result]
    finish: Callable[[Retriever, list[Answer]], Result]
    queries: Sequence[Request] = ()
    wanted: Wanted | None = None

    @property
    def is_large(self) -> bool:
        return len(self.queries) > MAX_GROUP

    def alone(self, retriever: Retriever) -> Result:
        found = [] if self.wanted is None else self.wanted.recommend(retriever, self.queries)
        return self.finish(retriever, found)


class Engine:
    """Answers requests one group at a time in its own thread; each group uses the same retriever from start to end.

    The oldest request is next. But after a large one, smaller ones are next for as long as the large one took, so that
    a client with many large requests delays the others by one of them rather than by all.

    Args:
        current: Returns the retriever to answer with.
        waiting: How many requests may wait; further ones are refused.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, current: Callable[[], Retriever], waiting: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._current, self._most, self._clock = current, waiting, clock
        self._jobs: deque[_Job] = deque()
        self._there = threading.Semaphore(0)
        self._ended = False
        self._owed = 0.0  # seconds that smaller requests may take before the next large one
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread after the group it is answering."""
        self._ended = True
        self._there.release()
        if self._thread is not None:
            self._thread.join()

    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._jobs)

    async def recommend(
        self, queries: Sequence[Request], wanted: Wanted, finish: Callable[[Retriever, list[Answer]], Result]
    ) -> Result:
        """The result that `finish` makes of the recommendations, in the engine's thread.

        Raises:
            Refusal: Too many requests are waiting.
            TwoTowerError: As `Retriever.recommend_many`.
        """
        return await self._answered(_Job(self._future(), finish, queries, wanted))

    async def run(self, work: Callable[[Retriever], Result]) -> Result:
        """The result of a function called with the retriever, in the engine's thread.

        Raises:
            Refusal: Too many requests are waiting.
            TwoTowerError: Whatever the function raises.
        """
        return await self._answered(_Job(self._future(), lambda retriever, _: work(retriever)))

    async def _answered(self, job: _Job) -> Result:
        if len(self._jobs) >= self._most:
            message = f"{self._most} requests are already waiting; try again in a moment"
            raise Refusal(503, "overloaded", message, headers={"retry-after": "1"})
        self._jobs.append(job)
        self._there.release()
        return await job.future

    def _future(self) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().create_future()

    def _work(self) -> None:
        with adapted_threads() as pace:
            while True:
                self._there.acquire()
                if self._ended:
                    return
                if self._jobs:  # an earlier group may have taken this job already
                    group = self._next_group()
                    with pace.step(len(group)):
                        self._answer(group)

    def _next_group(self) -> list[_Job]:
        """The next request and the waiting requests that can be batched with it; the rest keep their order."""
        first = self._next()
        group, others = [first], []
        if first.wanted is None or not first.wanted.may_join:
            return group
        queries = len(first.queries)
        for _ in range(len(self._jobs)):
            job = self._jobs.popleft()
            if job.wanted == first.wanted and queries + len(job.queries) <= MAX_GROUP:
                group.append(job)
                queries += len(job.queries)
            else:
                others.append(job)
        self._jobs.extendleft(reversed(others))
        return group

    def _next(self) -> _Job:
        """Removes the request to answer next from the waiting ones."""
        first = self._jobs[0]
        if self._owed > 0 and first.is_large:
            first = next((job for job in tuple(self._jobs) if not job.is_large), first)
        self._jobs.remove(first)
        return first

    def _answer(self, group: list[_Job]) -> None:
        group = [job for job in group if not job.future.cancelled()]
        if not group:
            return
        started = self._clock()
        outcomes = _outcomes(self._current(), group)
        seconds = self._clock() - started
        self._owed = seconds if group[0].is_large else max(0.0, self._owed - seconds)
        group[0].future.get_loop().call_soon_threadsafe(_settle, group, outcomes)


def _outcomes(retriever: Retriever, group: Sequence[_Job]) -> list[Result]:
    """The result of each request in a group; an error goes only to the request that caused it."""
    try:
        return _together(retriever, group)
    except Exception as error:
        if len(group) == 1 or _is_about_all(error):
            return [error] * len(group)
        place = _place_of(error, group)
        if place is None:
            return [_outcome(job, retriever) for job in group]
        others = [*group[:place], *group[place + 1 :]]
        try:
            found = _together(retriever, others)
        except Exception:
            found = [_outcome(job, retriever) for job in others]
        return [*found[:place], error, *found[place:]]


def _is_about_all(error: Exception) -> bool:
    """Whether an error concerns the whole group: one about a shared setting such as a condition, or from a store."""
    if isinstance(error, StoreUnavailableError | StoreVersionError):
        return True
    return isinstance(error, TwoTowerError) and error.field not in (None, "query")


def _place_of(error: Exception, group: Sequence[_Job]) -> int | None:
    """Which request's query an error is about, if it says; then also makes its row relative to that request."""
    if not isinstance(error, TwoTowerError) or error.row is None:
        return None
    start = 0
    for place, job in enumerate(group):
        if start <= error.row < start + len(job.queries):
            error.row -= start
            return place
        start += len(job.queries)
    return None


def _together(retriever: Retriever, group: Sequence[_Job]) -> list[Result]:
    """The result of each request in a group, from a single search."""
    wanted = group[0].wanted
    if wanted is None:
        return [group[0].alone(retriever)]
    found = wanted.recommend(retriever, [query for job in group for query in job.queries])
    results, start = [], 0
    for job in group:
        results.append(job.finish(retriever, found[start : start + len(job.queries)]))
        start += len(job.queries)
    return results


def _outcome(job: _Job, retriever: Retriever) -> Result:
    try:
        return job.alone(retriever)
    except Exception as error:
        return error


def _settle(jobs: Sequence[_Job], outcomes: Sequence[Result]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.cancelled():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
