"""How many processes a study takes when nobody says."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from twotower.cli.main import app
from twotower.experiments.plans import StudyPlan


@pytest.mark.parametrize(("options", "workers"), [([], 2), (["--baselines", "none"], 1), (["--seeds", "8"], 3)])
def test_baselines_are_measured_beside_the_models(
    options: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[StudyPlan] = []

    def planned(plan: StudyPlan, *_: object, **__: object) -> None:
        plans.append(plan)
        raise typer.Exit

    monkeypatch.setattr("twotower.cli.study.run_study", planned)
    monkeypatch.setattr("twotower.cli.study.allowed_threads", lambda: 2)
    done = CliRunner().invoke(app, ["study", "simulated:20,30,400", "--layers", "4", *options])
    assert done.exit_code == 0, done.output
    assert plans[0].workers == workers
