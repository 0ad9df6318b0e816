"""`twotower update`: what it prints, and the exit codes that a scheduler reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twotower.cli import main
from twotower.cli import update as command
from twotower.experiments.gates import Gate
from twotower.experiments.update import UpdateReport, UpdateSettings


def run_with(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `twotower` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["twotower", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.run()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def report(outcome: Any, gates: list[Gate]) -> UpdateReport:
    return UpdateReport(
        outcome=outcome, bundle="shop", version="new1", before="old1", gates=gates, kept=["old1", "new1"]
    )


def test_a_refusal_has_an_exit_code_of_its_own_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = [Gate("drift", True, "As ever."), Gate("score", False, "The score is below.", {"all.top_10": -0.2})]
    monkeypatch.setattr(command, "update_bundle", lambda *_, **__: report("refused", gates))
    assert run_with(["update", "simulated", "--bundle", "shop", "--json"], monkeypatch) == 6
    said = capsys.readouterr()
    printed = msgspec.json.decode(said.out, type=dict[str, Any])
    assert printed["outcome"] == "refused"
    assert printed["gates"][1] == {
        "name": "score",
        "passed": False,
        "said": "The score is below.",
        "figures": {"all.top_10": -0.2},
    }
    assert "refused: The score is below. shop stays version new1" in " ".join(said.err.split())


def test_a_publication_ends_with_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def update(config: object, bundle: Path, settings: UpdateSettings, **_: object) -> UpdateReport:
        asked.extend([bundle, settings])
        return report("published", [])

    monkeypatch.setattr(command, "update_bundle", update)
    options = ["--only-new", "--retire-after", "90", "--keep", "7", "--drift", "0.5"]
    assert run_with(["update", "simulated", "--bundle", "shop", *options], monkeypatch) == 0
    bundle, settings = asked
    assert (bundle, settings.only_new, settings.retire_after, settings.keep) == (Path("shop"), True, 90.0, 7)
    assert settings.gates.drift == 0.5
    assert "shop: published, version new1; kept: old1, new1" in capsys.readouterr().out


def test_what_it_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(["update", "--bundle", str(tmp_path / "shop")], monkeypatch) == 2
    assert "needs CONFIG.toml or the name of a data set, or --rollback" in " ".join(capsys.readouterr().err.split())
    assert run_with(["update", "--bundle", str(tmp_path / "shop"), "--rollback"], monkeypatch) == 2
    assert "no earlier version" in " ".join(capsys.readouterr().err.split())
