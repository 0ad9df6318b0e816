from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from matplotlib.image import imread
from rich.console import Console

from twotower.errors import SavedFolderError
from twotower.evaluation import Scores
from twotower.study.curves import DARK, curves_svg, draw_curves, write_curves
from twotower.study.report import report_html
from twotower.study.results import CurvePoint, DataSummary, Run, Seconds, Study, read_results, write_results
from twotower.study.summary import by_depth, paired_difference, verdicts
from twotower.study.tables import results_table


def scores(value: float) -> Scores:
    return Scores(
        {"top_10": value / 2, "top_100": value, "mrr": value / 4},
        {"top_10": value / 2, "top_100": value + 0.1, "mrr": value / 4},
    )


def run(layers: list[int], top: float, seed: int = 0) -> Run:
    history = [CurvePoint(epoch, 5.0 / epoch, *msgspec.structs.astuple(scores(top * epoch / 3))) for epoch in (1, 2, 3)]
    return Run(layers, seed, "tuned", 3, 1234, Seconds(1.5, 0.5), history, [5.0, 2.5, 1.7], scores(top), 3)


def study(runs: Sequence[Run], oracle: bool = True, name: str = "simulated") -> Study:
    baselines = {"popularity": scores(0.3), "ease": scores(0.35)} | ({"oracle": scores(0.7)} if oracle else {})
    return Study(
        data=DataSummary(name, 100_000, 943, 1682, 80_000, 16_000, 20_000, "random:0.2, seed 42", "0123456789ab"),
        baselines=baselines,
        runs=list(runs),
        curves_on="validation",
        curve_baselines=baselines,
        metric="top_100",
        verdicts=verdicts(baselines, runs, "top_100"),
        command="twotower study --out 'my study'",
        versions={"twotower": "0.1.0"},
        created="2026-01-01T00:00:00+00:00",
        seconds=60.0,
    )


ONE_SEED = study([run([32], 0.4), run([64, 32], 0.5)])
SEEDS = study(
    [run(layers, top + 0.01 * seed, seed) for layers, top in (([32], 0.4), ([64, 32], 0.5)) for seed in (0, 1, 2)]
)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_results(SEEDS, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == SEEDS
    raw = msgspec.json.decode((tmp_path / "results.json").read_bytes())
    assert set(raw["runs"][0]) >= {
        "layers",
        "seed",
        "recipe",
        "epochs",
        "parameters",
        "seconds",
        "history",
        "final",
        "best_epoch",
    }
    assert set(raw["runs"][0]["history"][0]) == {"epoch", "loss", "all", "unseen"}
    assert raw["baselines"]["oracle"]["unseen"]["top_100"] == pytest.approx(0.8)


def test_what_are_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"runs": 3}')
    for path in (tmp_path / "results.json", tmp_path / "nothing.json"):
        with pytest.raises(SavedFolderError, match="holds no study's results"):
            read_results(path)


def test_it_says_which_model_does_not_beat_popularity() -> None:
    said = verdicts({"popularity": scores(0.3), "ease": scores(0.2)}, [run([32], 0.25)], "top_100")
    assert "[32] does not beat popularity (top_100, all): 0.2500 against 0.3000." in said
    assert not any("does not beat EASE" in sentence for sentence in said)


def test_it_says_how_far_towards_the_oracle_a_study_went() -> None:
    assert any(s.startswith("[64, 32] goes 50% of the way from popularity (0.3000)") for s in ONE_SEED.verdicts)
    assert not any("any model can reach" in sentence for sentence in study([run([32], 0.4)], oracle=False).verdicts)


def test_one_seed_does_not_tell_depths_apart() -> None:
    assert ONE_SEED.verdicts[-1].startswith("One seed does not tell depths apart")


@pytest.mark.parametrize(
    ("deep", "word"),
    [
        ([0.5, 0.52, 0.51], "is better than"),
        ([0.3, 0.32, 0.31], "is worse than"),
        ([0.3, 0.6, 0.4], "is not told apart from"),
    ],
)
def test_depths_are_compared_by_paired_seeds(deep: list[float], word: str) -> None:
    runs = [run([32], 0.4 + 0.01 * seed, seed) for seed in range(3)] + [
        run([64, 32], top, s) for s, top in enumerate(deep)
    ]
    assert any(s.startswith(f"[64, 32] {word} [32]: ") and "3 paired seeds" in s for s in study(runs).verdicts)


def test_a_paired_difference_by_hand() -> None:
    shallow, deep = by_depth(
        [run([32], 0.4 + 0.1 * s, s) for s in (0, 1)] + [run([64, 32], 0.5 + 0.1 * s, s) for s in (1, 0)]
    )
    difference = paired_difference(shallow, deep, "all", "top_100")
    assert difference.mean == pytest.approx(0.1)
    assert difference.half_width == pytest.approx(0.0, abs=1e-12)  # the seeds' own differences cancel


@pytest.mark.parametrize(
    "what", [ONE_SEED, SEEDS, study([run([], 0.1)], oracle=False)], ids=["one seed", "seeds", "no layer"]
)
def test_the_terminals_table_fits_in_80_columns(what: Study) -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(what))
    shown = capture.get()
    assert "…" not in shown
    assert all(depth.label in shown for depth in by_depth(what.runs))
    assert ("▾ does not beat popularity" in shown) == (what.runs[0].final.all["top_100"] < 0.3)


@pytest.mark.parametrize("what", [ONE_SEED, SEEDS], ids=["one seed", "seeds"])
def test_the_picture_shows_every_depth_and_baseline(what: Study, tmp_path: Path) -> None:
    write_curves(what, tmp_path)
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[1] > 1500
    svg = (tmp_path / "curves.svg").read_text()
    for text in ("popularity 0.300", "EASE 0.350", "oracle 0.700", "[64, 32] 0.5", "validation, a part cut from train"):
        assert text in svg
    lines = [line for line in draw_curves(what).axes[0].lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3]] * 2  # type: ignore[arg-type]


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    write_curves(SEEDS, tmp_path / "one")
    write_curves(SEEDS, tmp_path / "other")
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert report_html(SEEDS) == report_html(SEEDS)
    assert curves_svg(SEEDS, DARK) != curves_svg(SEEDS)


def test_the_report_says_it_all_and_needs_nothing_else() -> None:
    page = report_html(SEEDS)
    for text in ("0123456789ab", "random:0.2, seed 42", "twotower study --out &#x27;my study&#x27;", *SEEDS.verdicts):
        assert text in page or text.replace("'", "&#x27;") in page
    for metric in SEEDS.runs[0].final.all:
        assert f">{metric}</th>" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "<script" not in page
    assert "{{" not in page


def test_names_cannot_become_markup() -> None:
    page = report_html(study([run([32], 0.4)], name="<script>alert(1)</script>{{verdicts}}"))
    assert "<script" not in page
    assert "{{verdicts}}" in page
