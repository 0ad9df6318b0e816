"""Whether and where a training shows how far it is."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from rich.console import Console

from notebooks import run_notebook
from toy import groups_log, toy_model
from twotower.data import Dataset, split_random
from twotower.training import ProgressBar, Trainer
from twotower.training.callbacks import Line

TRAIN, TEST = split_random(groups_log(300))


def shown_by(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, progress: bool | None, *watching: Any, validation: Dataset = TEST
) -> str:
    """What standard error gets of two short epochs."""
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", out)
    for name, value in {"COLUMNS": "120", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(epochs=2, batch_size=64, monitor="all.mrr")
    trainer.fit(toy_model(), TRAIN, validation, callbacks=watching, progress=progress)
    return out.getvalue()


def test_a_person_at_a_terminal_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by(monkeypatch, True, None)
    assert "training" in shown
    assert "100%" in shown
    assert "epoch 2 of 2 · loss " in shown
    assert " · training top-100 " in shown
    assert " · all MRR 0." in shown


def test_it_is_silent_where_it_shall_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_by(monkeypatch, True, False) == ""
    assert shown_by(monkeypatch, False, None) == ""
    with ProgressBar(Console(quiet=True)) as own:
        assert shown_by(monkeypatch, True, True, own) == ""


def test_a_log_has_plain_lines_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by(monkeypatch, False, True)
    assert shown.startswith("training: epoch 2 of 2 · loss ")
    assert " 100%, " in shown
    assert shown.count("\n") == 1
    assert "\x1b" not in shown


def test_trainings_of_several_processes_have_a_line_each() -> None:
    out = io.StringIO()
    with ProgressBar(Console(file=out)) as bar:
        for done in (1, 2):
            for source in (1, 2):
                bar.show(Line(1, f"[{source}]", done, 4, "epoch 1 of 1"), source)
        bar.show(Line(1, "[2]", 4, 4, "epoch 1 of 1", is_over=True), source=2)
        assert list(bar.display._latest) == [1, 2]
    assert out.getvalue() == "[2]: epoch 1 of 1 100%, 0 s\n"


CELL = """
from toy import groups_log, toy_model
from twotower.training import Trainer
{history}Trainer(epochs=2, batch_size=64).fit(toy_model(), groups_log(300), progress={progress}){end}
"""


def test_a_notebook_shows_it_below_the_cell_and_the_history_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ipywidgets, in which rich would draw; nothing of what is replaced stays."""
    cells = [
        CELL.format(history="history = ", progress=None, end=""),
        "history",
        "history.plot()",
        CELL.format(history="", progress=False, end=";"),
    ]
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=code)  # type: ignore[no-untyped-call]
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run_notebook(notebook, Path(__file__).parents[1])
    training, table, plot, silent = (cell.outputs for cell in notebook.cells)
    (live,) = training
    assert live.data["text/plain"].startswith("training: epoch 2 of 2 · loss ")
    assert " 100%, " in live.data["text/plain"]
    assert live.data["text/html"].startswith("<pre")
    assert "<table>" in table[0].data["text/html"]
    assert plot[0].data["image/png"]
    assert silent == []
