from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from matplotlib.image import imread
from rich.console import Console

from twotower.errors import SavedFolderError
from twotower.evaluation import Scores, Slice
from twotower.study.curves import DARK, curves_svg, draw_curves, write_curves
from twotower.study.report import report_html
from twotower.study.results import CurvePoint, DataSummary, Run, Seconds, Study, read_results, write_results
from twotower.study.summary import best_depth, by_depth, paired_difference, strongest, verdicts
from twotower.study.tables import results_table


def scores(value: float) -> Scores:
    everything = {"top_10": value / 2, "top_100": value, "mrr": value / 4}
    unseen = {"top_10": value / 2, "top_100": value + 0.1, "mrr": value / 4}
    slices = [
        Slice(by, name, events, everything, unseen)
        for by, name, events in (
            ("candidate", "head", 15_000),
            ("candidate", "tail", 5_000),
            ("history", "old", 20_000),
        )
    ]
    return Scores(everything, unseen, {"all.top_100": 0.0123}, slices)


def run(layers: list[int], top: float, seed: int = 0) -> Run:
    history = [
        CurvePoint(epoch, 5.0 / epoch, scores(top * epoch / 3).all, scores(top * epoch / 3).unseen)
        for epoch in (1, 2, 3)
    ]
    return Run(layers, seed, "tuned", 3, 1234, Seconds(1.5, 0.5), history, [5.0, 2.5, 1.7], scores(top), 3)


def study(runs: Sequence[Run], oracle: bool = True, name: str = "simulated") -> Study:
    baselines = {
        name: scores(value)
        for name, value in (("popularity", 0.3), ("recent_popularity", 0.31), ("ease", 0.35), ("ials", 0.34))
    } | ({"oracle": scores(0.7)} if oracle else {})
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
    assert "[32] (top_100, all: 0.2500 ± 0.0123) beats EASE (0.2000), does not beat popularity (0.3000)." in said
    assert verdicts({"popularity": scores(0.2), "ials": scores(0.1)}, [run([32], 0.25)], "top_100") == [
        "[32] beats popularity and iALS under both protocols (top_100)."
    ]


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


def test_means_have_intervals_over_seeds_and_one_seed_has_its_own_over_queries() -> None:
    (shallow, deep), (alone, _) = by_depth(SEEDS.runs), by_depth(ONE_SEED.runs)
    assert alone.means().half_widths == {"all.top_100": 0.0123}
    assert shallow.means().interval("all", "top_100") == shallow.interval("all", "top_100")
    assert deep.means().half_widths["unseen.mrr"] == pytest.approx(4.30265 * 0.0025 / 3**0.5, rel=1e-5)
    assert [(part.name, part.events) for part in deep.means().slices] == [
        ("head", 15_000),
        ("tail", 5_000),
        ("old", 20_000),
    ]
    assert deep.means().slices[0].unseen["top_100"] == pytest.approx(0.61)


def test_the_strongest_baseline_is_that_of_the_protocol_and_never_the_oracle() -> None:
    one, other = Scores({"mrr": 0.3}, {"mrr": 0.1}), Scores({"mrr": 0.2}, {"mrr": 0.2})
    baselines = {"popularity": one, "ease": other, "oracle": Scores({"mrr": 1.0}, {"mrr": 1.0})}
    assert [strongest(baselines, protocol, "mrr") for protocol in ("all", "unseen")] == ["popularity", "ease"]
    assert best_depth(SEEDS.runs, "top_100").label == "[64, 32]"


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
def test_the_picture_shows_every_depth_popularity_the_strongest_baseline_and_the_oracle(
    what: Study, tmp_path: Path
) -> None:
    write_curves(what, tmp_path)
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[1] > 1500
    svg = (tmp_path / "curves.svg").read_text()
    for text in ("popularity 0.300", "EASE 0.350", "oracle 0.700", "[64, 32] 0.5", "validation, a part cut from train"):
        assert text in svg
    assert "iALS" not in svg  # EASE is stronger
    assert "recent popularity" not in svg
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


def test_the_report_shows_slices_with_their_counts_and_the_marks_in_their_places() -> None:
    page = report_html(SEEDS)
    chart = page[page.index("<h2>Slices</h2>") : page.index("<details>")]
    assert chart.count('<div class="slice">') == 6  # three slices, two protocols
    assert "tail<small>5,000 test events</small>" in chart
    # Of the best model's 0.51, the longest there: popularity 0.3, EASE 0.35.
    for mark, left, name in (
        ("popularity", "58.8%", "popularity: 0.3000"),
        ("strongest", "68.6%", "EASE, the strongest baseline: 0.3500"),
        ("model", "100.0%", "[64, 32], the best model: 0.5100"),
    ):
        assert f'<i class="mark {mark}" style="left:{left}" title="{name}"></i>' in chart
    table = page[page.index("<details>") : page.index("</details>")]
    for text in ("recent popularity", "iALS", "oracle", "head, top_100", "old, mrr"):
        assert f">{text}</th>" in table


def test_popularity_has_one_mark_where_it_is_the_strongest_itself() -> None:
    weaker = {"popularity": scores(0.3), "ease": scores(0.2)}
    page = report_html(msgspec.structs.replace(ONE_SEED, baselines=weaker))
    assert page.count("popularity, the strongest baseline</span>") == 2
    assert 'class="mark strongest"' not in page


def test_a_single_epoch_is_one_tick() -> None:
    short = msgspec.structs.replace(run([32], 0.4), history=run([32], 0.4).history[:1])
    panel = draw_curves(study([short])).axes[0]
    low, high = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [1]


def test_a_study_without_slices_has_no_such_section() -> None:
    bare = msgspec.structs.replace(run([32], 0.4), final=Scores(scores(0.4).all, scores(0.4).unseen))
    assert "Slices" not in report_html(study([bare]))


def test_names_cannot_become_markup() -> None:
    page = report_html(study([run([32], 0.4)], name="<script>alert(1)</script>{{verdicts}}"))
    assert "<script" not in page
    assert "{{verdicts}}" in page
