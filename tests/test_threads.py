"""Threads: as many as pay off, looked at again when work slows down, and never changed where the user fixed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest
import torch

import twotower as tt
from twotower import threads
from twotower.threads import AGAIN, RARELY, TRIALS, WINDOW, Pace, adapted_threads, fix_threads, time_trial

MOST = 4


class Machine:
    """A clock that a test moves, and trials that it answers: a core less than there are threads takes ten times."""

    def __init__(self, free: int = MOST) -> None:
        self.now, self.free, self.trials = 0.0, free, 0

    def clock(self) -> float:
        return self.now

    def trial(self, counts: Sequence[int]) -> list[float]:
        self.trials += 1
        return [1 / count if count <= self.free else 10.0 for count in counts]

    def work(self, pace: Pace, seconds: float, speed: float = 1.0, step: float = 0.1) -> None:
        """Runs steps for so many seconds on the clock."""
        end = self.now + seconds
        while self.now < end:
            with pace.step(100):
                self.now += step / speed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine of four cores, of which a test says how many are free."""
    before, machine = torch.get_num_threads(), Machine()
    monkeypatch.setattr(threads, "allowed_threads", lambda: MOST)
    monkeypatch.setattr(threads, "time_trial", machine.trial)
    monkeypatch.setattr(threads, "_own", threads._Thread())
    monkeypatch.setattr(threads, "_fixed", False)
    yield machine
    torch.set_num_threads(before)


def test_all_threads_are_used_while_steps_keep_their_speed(machine: Machine) -> None:
    pace = Pace(MOST, MOST, machine.trial, machine.clock)
    machine.work(pace, 100 * AGAIN)
    assert (pace.now, machine.trials) == (MOST, 0)


@pytest.mark.parametrize(("free", "expected"), [(3, 2), (2, 2), (1, 1)])
def test_work_that_slows_down_because_cores_are_busy_goes_on_with_fewer_threads(
    machine: Machine, free: int, expected: int
) -> None:
    pace = Pace(MOST, MOST, machine.trial, machine.clock)
    machine.work(pace, 5.0)
    machine.free = free
    machine.work(pace, 3 * WINDOW, speed=0.1)
    assert (pace.now, torch.get_num_threads()) == (expected, expected)
    assert TRIALS <= machine.trials <= TRIALS + 1  # the window in which it slowed down may have been a mixed one


def test_work_that_slows_down_by_itself_keeps_its_threads(machine: Machine) -> None:
    pace = Pace(MOST, MOST, machine.trial, machine.clock)
    machine.work(pace, 5.0)
    machine.work(pace, 50.0, speed=0.1)
    assert pace.now == MOST
    assert 1 <= machine.trials <= 2


def test_threads_come_back_when_cores_are_free_again(machine: Machine) -> None:
    pace = Pace(MOST, 1, machine.trial, machine.clock)
    machine.free = 1
    machine.work(pace, RARELY)
    assert pace.now == 1
    assert machine.trials <= 5
    machine.free = MOST
    machine.work(pace, RARELY)
    assert pace.now == MOST


def test_one_slow_trial_changes_nothing(machine: Machine) -> None:
    def passing(counts: Sequence[int]) -> list[float]:
        machine.free = 1 if machine.trials < TRIALS - 1 else MOST
        return machine.trial(counts)

    pace = Pace(MOST, MOST, passing, machine.clock)
    pace.choose()
    assert (pace.now, machine.trials) == (MOST, TRIALS)


def test_a_block_begins_with_a_trial_and_ends_with_the_number_of_before(machine: Machine) -> None:
    torch.set_num_threads(3)
    machine.free = 1
    with adapted_threads() as pace:
        assert (pace.now, torch.get_num_threads(), machine.trials) == (1, 1, TRIALS)
        with adapted_threads():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with adapted_threads():  # soon after, it knows
        assert (torch.get_num_threads(), machine.trials) == (1, TRIALS)


def test_the_users_number_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.free = 1
    monkeypatch.setattr(threads, "_fixed", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with adapted_threads() as pace:
        machine.work(pace, 20.0, speed=0.1)
        assert (torch.get_num_threads(), machine.trials) == (MOST, 0)
    fix_threads(False)  # as in a worker, whose environment its parent has set
    with adapted_threads():
        assert torch.get_num_threads() == 1


def test_a_quota_holds_from_python(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(MOST)
    monkeypatch.setattr(threads, "allowed_threads", lambda: 1)
    with adapted_threads():
        assert (torch.get_num_threads(), machine.trials) == (1, 0)


def trained(log: tt.data.Dataset) -> list[torch.Tensor]:
    """The weights of a small model after three epochs."""
    query, candidate = (tt.Tower([tt.Category(column, 8)], layers=[8]) for column in ("who", "what"))
    model = tt.TwoTower(query, candidate)
    tt.Trainer(epochs=3, batch_size=64, seed=1).fit(model, log, log)
    return list(model.state_dict().values())


def test_training_on_a_busy_machine_gives_the_bits_of_fewer_threads(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = torch.Generator().manual_seed(0)
    who, what = torch.randint(0, 40, (2, 500), generator=numbers).tolist()
    log = tt.data.from_tables(pa.table({"who": who, "what": what}), query_id="who", candidate_id="what")
    machine.free = 1
    reduced = trained(log)
    assert machine.trials == TRIALS
    fix_threads(True)
    monkeypatch.setattr(threads, "allowed_threads", lambda: 1)
    alone = trained(log)
    assert all(torch.equal(one, other) for one, other in zip(reduced, alone, strict=True))


def test_a_trial_times_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        seconds = time_trial([2, 1])
    finally:
        torch.set_num_threads(before)
    assert len(seconds) == 2
    assert all(own > 0 for own in seconds)
