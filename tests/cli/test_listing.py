"""Recommendations in a terminal: readable at any width, with no column lost in silence."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from toy import groups_log, toy_model
from twotower.cli.listing import listing
from twotower.cli.recommend import recommend
from twotower.retrieval import Recommendation, Retriever

WIDE = {f"genre_{number}": number for number in range(20)}
FOUND = [
    Recommendation(
        number, 1.5 / number, {"year": 1990, "id": number, **WIDE, "title": f"A film called number {number}"}
    )
    for number in (1, 2, 30)
]


@pytest.mark.parametrize("width", [30, 60, 80, 120, 400])
def test_id_title_and_score_are_whole_and_the_rest_is_there_where_it_fits(width: int) -> None:
    table, left_out = listing(FOUND, "id", "title", width)
    written = io.StringIO()
    Console(file=written, width=width).print(table)
    lines = written.getvalue().splitlines()
    assert len(lines) == 2 + len(FOUND)
    assert max(map(len, lines)) <= width
    header = [name.strip() for name in lines[0].split("┃")]
    assert header[:4] == ["", "id", "title", "score"]
    assert header[4:] + left_out == [name for name in FOUND[0].candidate if name not in ("id", "title")]
    assert "0.050" in lines[-1]
    assert ("A film called number 30" in lines[-1]) == (width > 30)
    assert (left_out == []) == (width == 400)


def test_the_command_says_what_it_leaves_out_and_takes_a_bare_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = groups_log(200)
    wide = log.candidates
    for name in WIDE:
        wide = wide.append_column(name, wide["item"])
    model = toy_model().learn(log).eval()
    Retriever.build(model, wide, seen=log).save(tmp_path / "shop")
    monkeypatch.setenv("COLUMNS", "80")
    recommend(tmp_path / "shop", query="3", k=2)
    said = capsys.readouterr().out
    assert "No room for" in said
    assert "genre_19; --json shows all." in said
    recommend(tmp_path / "shop", query='{"user": 3, "at": "2030-01-01"}', k=2)
    assert "at 2030-01-01 00:00:00 UTC is after all training events" in capsys.readouterr().out
