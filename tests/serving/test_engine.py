"""What waits together is answered together, and nobody suffers for another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from twotower import Retriever
from twotower.errors import ConfigError
from twotower.retrieval import Answer
from twotower.serving.engine import Engine, Wanted
from twotower.serving.refusals import Refusal


class Recording:
    """A retriever that notes what it is asked at once, and answers when it may."""

    version = "0"

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.time = 0.0
        self.may = threading.Event()
        self.began = threading.Event()

    def recommend_many(self, queries: Sequence[Any], k: int, **filters: Any) -> list[Answer]:
        self.began.set()
        assert self.may.wait(60)
        self.asked.append((len(queries), k))
        self.time += len(queries)
        if any("bad" in query for query in queries):
            raise ConfigError("bad")
        return [Answer([], "query", f"{query['user']} of {k}") for query in queries]


def versions(retriever: Retriever, found: list[Answer]) -> list[str]:
    return [one.version for one in found]


async def together(recording: Recording, requests: Sequence[tuple[list[Any], Wanted]], waiting: int = 100) -> list[Any]:
    """Outcomes of requests that come while the first one is being answered."""
    engine = Engine(lambda: recording, waiting, lambda: recording.time)  # type: ignore[arg-type, return-value]
    engine.start()
    try:
        tasks = [asyncio.create_task(engine.recommend(*requests[0], versions))]
        await asyncio.to_thread(recording.began.wait, 60)
        for queries, wanted in requests[1:]:
            tasks.append(asyncio.create_task(engine.recommend(queries, wanted, versions)))
        await asyncio.sleep(0.01)
        recording.may.set()
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        recording.may.set()
        engine.stop()


def users(*numbers: int) -> list[dict[str, int]]:
    return [{"user": number} for number in numbers]


def test_requests_with_the_same_filters_are_one_search() -> None:
    recording = Recording()
    requests = [
        (users(0), Wanted(k=5)),
        (users(1, 2), Wanted(k=5)),
        (users(3), Wanted(k=7)),
        (users(4), Wanted(k=5)),
        (users(5), Wanted(k=5, exclude=(1,))),
    ]
    outcomes = asyncio.run(together(recording, requests))
    assert outcomes == [["0 of 5"], ["1 of 5", "2 of 5"], ["3 of 7"], ["4 of 5"], ["5 of 5"]]
    assert recording.asked == [(1, 5), (3, 5), (1, 7), (1, 5)]


def test_small_requests_wait_for_one_large_request_and_not_for_all() -> None:
    recording = Recording()
    large = [(users(*range(65)), Wanted(k=k)) for k in (1, 2, 3)]
    small = [(users(*range(40)), Wanted(k=k)) for k in (4, 5, 6)]
    outcomes = asyncio.run(together(recording, [(users(0), Wanted(k=9)), *large, *small]))
    assert [len(one) for one in outcomes] == [1, 65, 65, 65, 40, 40, 40]
    # A query takes a second here: the small ones may take as long as the large one before them.
    assert recording.asked == [(1, 9), (65, 1), (40, 4), (40, 5), (65, 2), (40, 6), (65, 3)]


def test_one_that_cannot_be_answered_does_not_harm_the_others() -> None:
    requests = [(users(0), Wanted(k=5)), (users(1), Wanted(k=5)), ([{"bad": 1}], Wanted(k=5)), (users(3), Wanted(k=5))]
    first, second, bad, fourth = asyncio.run(together(Recording(), requests))
    assert (first, second, fourth) == (["0 of 5"], ["1 of 5"], ["3 of 5"])
    assert isinstance(bad, ConfigError)


def test_an_error_that_says_whose_it_is_costs_no_further_search() -> None:
    """The one at fault is told so, with the row among its own queries; the others are answered together."""

    class Telling(Recording):
        def recommend_many(self, queries: Sequence[Any], k: int, **filters: Any) -> list[Answer]:
            try:
                return super().recommend_many(queries, k, **filters)
            except ConfigError as error:
                error.field, error.row = "query", ["bad" in query for query in queries].index(True)
                raise

    recording = Telling()
    bad = [{"user": 5}, {"bad": 1}]
    requests = [(users(0), Wanted(k=5)), (users(1, 2), Wanted(k=5)), (bad, Wanted(k=5)), (users(3), Wanted(k=5))]
    first, second, error, fourth = asyncio.run(together(recording, requests))
    assert (first, second, fourth) == (["0 of 5"], ["1 of 5", "2 of 5"], ["3 of 5"])
    assert isinstance(error, ConfigError)
    assert error.row == 1
    assert recording.asked == [(1, 5), (5, 5), (3, 5)]


def test_an_error_that_is_nobodys_keeps_its_row() -> None:
    """Each request is then answered alone, and the same error object may come back."""
    nobodys = ConfigError("beyond", field="query", row=9)

    class Telling(Recording):
        def recommend_many(self, queries: Sequence[Any], k: int, **filters: Any) -> list[Answer]:
            super().recommend_many(queries, k, **filters)
            raise nobodys

    outcomes = asyncio.run(together(Telling(), [(users(number), Wanted(k=5)) for number in range(4)]))
    assert outcomes == [nobodys] * 4
    assert nobodys.row == 9


def test_a_condition_that_cannot_be_read_is_read_once_for_all_who_ask_it() -> None:
    class Refusing(Recording):
        def recommend_many(self, queries: Sequence[Any], k: int, **filters: Any) -> list[Answer]:
            super().recommend_many(queries, k, **filters)
            raise ConfigError("no such column", field="where")

    recording = Refusing()
    outcomes = asyncio.run(together(recording, [(users(number), Wanted(k=5)) for number in range(4)]))
    assert all(isinstance(outcome, ConfigError) for outcome in outcomes)
    assert recording.asked == [(1, 5), (3, 5)]


def test_where_too_many_wait_another_is_told_to_come_again() -> None:
    requests = [(users(number), Wanted(k=5)) for number in range(4)]
    outcomes = asyncio.run(together(Recording(), requests, waiting=2))
    assert outcomes[:3] == [["0 of 5"], ["1 of 5"], ["2 of 5"]]
    assert isinstance(outcomes[3], Refusal)
    assert (outcomes[3].status, outcomes[3].headers) == (503, {"retry-after": "1"})


def test_groups_stay_small_enough_for_others_to_have_a_turn() -> None:
    count = 200
    recording = Recording()
    requests = [(users(number), Wanted(k=5)) for number in range(count)]
    outcomes = asyncio.run(together(recording, requests, waiting=count))
    assert outcomes == [[f"{number} of 5"] for number in range(count)]
    assert max(queries for queries, _ in recording.asked) == 64
