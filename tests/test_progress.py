from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from twotower import progress
from twotower.progress import Display


def until(out: io.StringIO, words: str) -> None:
    """Waits until this was printed; ten seconds at most."""
    end = time.monotonic() + 10
    while words not in out.getvalue() and time.monotonic() < end:
        time.sleep(0.005)
    assert words in out.getvalue()


def test_a_step_that_says_nothing_itself_is_shown_again_and_again_where_it_is_no_terminal() -> None:
    out = io.StringIO()
    with Display(Console(file=out), every=0.01) as display:
        display.show("[32] EASE", "inverting")
        until(out, "[32] EASE: inverting, 0 s\n[32] EASE: inverting, 0 s\n")
        display.show("iALS", "round 3 of 20", 0.15)
        until(out, "iALS: round 3 of 20 15%, 0 s\n")


def test_plain_lines_say_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    line = progress._Line("model", begun=0.0)
    line.move("epoch 1 of 10", 0.0)
    assert line.text == "model: epoch 1 of 10 0%, 0 s"
    now = 30.0
    line.move("epoch 2 of 10", 0.2)
    assert line.text == "model: epoch 2 of 10 20%, 30 s, about 2 min left"
    now = 100.0
    line.move("epoch 8 of 10", 0.8)
    assert line.text == "model: epoch 8 of 10 80%, 100 s, about 25 s left"
    line.move("on all of train, epoch 1 of 8", 0.0)  # its own speed counts, not that of the last step
    now = 110.0
    line.move("on all of train, epoch 1 of 8", 0.1)
    assert line.text == "model: on all of train, epoch 1 of 8 10%, 110 s, about 2 min left"
    line.move("ranking", None)
    assert line.text == "model: ranking, 110 s"
    line.end()
    assert line.text == "model: ranking, 110 s"


def test_what_is_over_soon_prints_nothing_where_it_is_no_terminal() -> None:
    out = io.StringIO()
    with Display(Console(file=out)) as display:
        display.show("popularity", "ranking", 0.5)
    assert out.getvalue() == ""


def test_a_terminal_has_a_line_for_each_label() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=100)) as display:
        display.show("EASE", "inverting [a matrix]")
        until(out, "inverting [a matrix]")
        display.show("[32]", "ranking", 0.5)
        until(out, " 50% ")  # both lines are drawn again, ten times a second
    assert "EASE" in out.getvalue()
    assert "[32]" in out.getvalue()
