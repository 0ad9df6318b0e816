"""Studies whose variants train by several recipes, with several inputs: the README's table is one."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.study import run_study
from twotower.recipes.config import Config, DataConfig
from twotower.recipes.overlay import Settings

VARIANTS: dict[str, Settings] = {
    "before": {"model": {"reach": "before"}},
    "around": {},
    "tutorial": {"recipe": "tutorial"},
}


def test_the_report_says_of_each_variant_what_it_reads_and_on_which_part_it_validates(tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(name="simulated:30,40,900"), training={"epochs": 2, "validate_every": 1}, baselines="none"
    )
    varied = {"model.layers": [[4]]}
    plan = StudyPlan(config=config, variants=grid(varied, VARIANTS), split_seeds=[42], seeds=[0], workers=1)
    study = run_study(plan, tmp_path / "out", command="study", console=Console(quiet=True))
    ahead = [sentence for sentence in study.verdicts if "both sides" in sentence]
    assert [sentence.partition(" read ")[0] for sentence in ahead] == ["around, [4]"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "recipe tuned, tutorial" in report
    (curves,) = re.findall(r"<h2>Score during training</h2>(.*?)<h2>", report, re.DOTALL)
    assert "measured on validation" in curves
    assert "around, [4]" in curves
    assert "tutorial, [4]" not in curves  # its curve is measured on test
