from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from twotower.errors import SavedFolderError
from twotower.evaluation import Comparison, Measurement, Outcomes, Scores, Slice
from twotower.evaluation.comparisons import Verdict
from twotower.evaluation.intervals import Interval
from twotower.study.curves import DARK, curves_svg, draw_curves, write_curves
from twotower.study.report import report_html
from twotower.study.results import (
    CurvePoint,
    DataSummary,
    Run,
    Seconds,
    Study,
    best_depth,
    by_depth,
    read_results,
    write_results,
)
from twotower.study.summary import comparisons_of, strongest, verdicts
from twotower.study.tables import results_table


def scores(value: float) -> Scores:
    everything = {"top_10": value / 2, "top_100": value, "mrr": value / 4}
    unseen = {"top_10": value / 2, "top_100": value + 0.1, "mrr": value / 4}
    slices = [
        Slice(by, name, events, float(events), everything, unseen)
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


def judged(name: str, rival: str, difference: float, over_seeds: Interval | None = None) -> list[Comparison]:
    """A comparison under both protocols whose interval is ± 0.02."""
    verdict: Verdict = (
        "better" if difference > 0.02 else "worse" if difference < -0.02 else "not significantly different"
    )
    return [
        Comparison(name, rival, protocol, "top_100", difference, 0.02, 20_000, 943, over_seeds, verdict)
        for protocol in ("all", "unseen")
    ]


def study(runs: Sequence[Run], oracle: bool = True, name: str = "simulated") -> Study:
    baselines = {
        name: scores(value)
        for name, value in (("popularity", 0.3), ("recent_popularity", 0.31), ("ease", 0.35), ("ials", 0.34))
    } | ({"oracle": scores(0.7)} if oracle else {})
    depths = by_depth(runs)
    comparisons = [
        one
        for depth in depths
        for rival in baselines
        if rival != "oracle"
        for one in judged(depth.label, rival, depth.interval("all", "top_100").mean - baselines[rival].all["top_100"])
    ]
    return Study(
        data=DataSummary(name, 100_000, 943, 1682, 80_000, 16_000, 20_000, "random:0.2, seed 42", "0123456789ab"),
        baselines=baselines,
        runs=list(runs),
        curves_on="validation",
        curve_baselines=baselines,
        metric="top_100",
        comparisons=comparisons,
        verdicts=verdicts(comparisons, baselines, runs, "top_100"),
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


def test_results_of_an_earlier_format_are_refused(tmp_path: Path) -> None:
    write_results(SEEDS, tmp_path / "results.json")
    raw = msgspec.json.decode((tmp_path / "results.json").read_bytes())
    del raw["format"], raw["comparisons"]
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(raw))
    with pytest.raises(SavedFolderError, match="format 1; expected 2, which this version writes: rerun the study"):
        read_results(tmp_path / "results.json")


def test_it_says_what_each_depth_beats_and_what_it_does_not() -> None:
    runs = [run([32], 0.31), run([64, 32], 0.5)]
    found = [
        *judged("[32]", "popularity", 0.01),
        *judged("[64, 32]", "popularity", 0.2),
        *judged("[64, 32]", "[32]", 0.19),
    ]
    assert verdicts(found, {"popularity": scores(0.3)}, runs, "top_100") == [
        "[32] is not significantly different from popularity under both protocols (top-100: +0.0100 ± 0.0200 all, "
        "+0.0100 ± 0.0200 unseen).",
        "[64, 32] beats popularity under both protocols (top-100: +0.2000 ± 0.0200 all, +0.2000 ± 0.0200 unseen).",
        "[64, 32] is better than [32] under both protocols (top-100: +0.1900 ± 0.0200 all, +0.1900 ± 0.0200 unseen).",
        "Depths are compared on these test events with one seed each, and another seed may change the order; "
        "--seeds 5 compares them over seeds as well.",
        "Differences are paired by event; ± is their 95% interval over 943 queries, wide enough for all 6 comparisons "
        "at once.",
    ]


def test_it_says_how_far_towards_the_oracle_a_study_went() -> None:
    assert any(s.startswith("[64, 32] goes 50% of the way from popularity (0.3000)") for s in ONE_SEED.verdicts)
    assert not any("any model can reach" in sentence for sentence in study([run([32], 0.4)], oracle=False).verdicts)
    assert not any("any model can reach" in sentence for sentence in study([run([32], 0.31)]).verdicts)


QUERIES = np.repeat(np.arange(50), 4)


def ranked(rank: int, queries: np.ndarray = QUERIES) -> Outcomes:
    return Outcomes(np.full((2, len(queries)), rank, dtype=np.float32), queries, queries < 0)


def test_a_study_compares_every_depth_with_every_baseline_and_with_the_depth_before() -> None:
    runs = [run([32], 0.4), run([64, 32], 0.5), run([32], 0.4, seed=1), run([64, 32], 0.5, seed=1)]
    baselines = {name: Measurement(scores(0.3), ranked(200)) for name in ("popularity", "ease", "oracle")}
    found = comparisons_of(baselines, runs, [ranked(rank) for rank in (150, 1, 150, 2)], "top_100")
    assert [(one.name, one.rival, one.verdict) for one in found if one.protocol == "all"] == [
        ("[32]", "popularity", "not significantly different"),
        ("[32]", "ease", "not significantly different"),
        ("[64, 32]", "popularity", "better"),
        ("[64, 32]", "ease", "better"),
        ("[64, 32]", "[32]", "better"),
    ]
    assert [one.over_seeds for one in found] == [None] * 8 + [Interval(1.0, 0.0)] * 2


def test_depths_over_seeds_are_said_with_both_intervals() -> None:
    said = verdicts(judged("[64, 32]", "[32]", 0.1, Interval(0.1, 0.03)), {}, SEEDS.runs, "top_100")
    assert said[0] == (
        "[64, 32] is better than [32] under both protocols (top-100: +0.1000 ± 0.0200 over queries and ± 0.0300 over "
        "seeds all, +0.1000 ± 0.0200 over queries and ± 0.0300 over seeds unseen)."
    )
    assert "the one over queries and the 95% interval over 3 paired seeds" in said[1]


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
    assert strongest({"oracle": one}, "all", "mrr") is None
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
    assert ("▾ does not beat popularity (top-100)" in shown) == (what.runs[0].final.all["top_100"] < 0.3)


def test_a_higher_figure_is_marked_where_it_is_not_significantly_higher() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(study([run([32], 0.31)])))
    assert capture.get().count("▾") == 2 + 1  # a mark under each protocol, and what it means


def test_a_notebook_shows_the_figures_and_the_verdicts() -> None:
    page = SEEDS._repr_html_()
    assert page.count("<table") == page.count("</table>") == 1
    for text in ("popularity", "EASE", "[64, 32]", "oracle", "0.5100 ± ", *SEEDS.verdicts):
        assert text in page


def test_a_study_without_baselines_has_a_report() -> None:
    alone = msgspec.structs.replace(ONE_SEED, baselines={}, curve_baselines={}, comparisons=[])
    assert "[64, 32]" in report_html(alone)
    assert "▾" not in str(results_table(alone).caption)


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
    for one in SEEDS.comparisons:
        assert f"{one.difference:+.4f} ± 0.0200</td>" in page
    assert "<script" not in page
    assert "{{" not in page


def test_the_report_shows_slices_with_their_counts_and_the_marks_in_their_places() -> None:
    page = report_html(SEEDS)
    chart = page[page.index("<h2>Slices</h2>") : page.rindex("<details>")]
    assert chart.count('<div class="slice">') == 6  # three slices, two protocols
    assert "tail<small>5,000 test events</small>" in chart
    # Of the best model's 0.51, the longest there: popularity 0.3, EASE 0.35.
    for mark, left, name in (
        ("popularity", "58.8%", "popularity: 0.3000"),
        ("strongest", "68.6%", "EASE, the strongest baseline: 0.3500"),
        ("model", "100.0%", "[64, 32], the best model: 0.5100"),
    ):
        assert f'<i class="mark {mark}" style="left:{left}" title="{name}"></i>' in chart
    table = page[page.index("<details>", page.index("<h2>Slices</h2>")) : page.rindex("</details>")]
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
