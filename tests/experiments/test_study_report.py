from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import twotower
from toy import groups_log, toy_model
from twotower.errors import SavedFolderError
from twotower.evaluation import Comparison, Outcomes, Scores, Slice
from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.comparisons import Verdict
from twotower.evaluation.intervals import Interval
from twotower.evaluation.predictions import ReliabilityBin
from twotower.evaluation.task_scores import TaskEvaluation, TaskScores
from twotower.experiments.notes import note_of
from twotower.experiments.report.curves import draw_curves, draw_over_value, write_curves
from twotower.experiments.report.page import DARK, svg
from twotower.experiments.report.reliability import draw_reliability
from twotower.experiments.report.study import report_html
from twotower.experiments.report.terminal import results_table
from twotower.experiments.results import (
    BaselineOutcome,
    BaselineRun,
    CurvePoint,
    Cut,
    ModelOutcome,
    Run,
    Seconds,
    Study,
    Variant,
    changed_values,
    mean_scores,
    read_results,
    write_results,
)
from twotower.experiments.verdicts import comparisons_of, strongest, verdicts
from twotower.retrieval import Notes, Retriever
from twotower.serving.description import study_of


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


def run(layers: list[int], top: float, seed: int = 0, cut: int = 0) -> tuple[list[int], Run]:
    """A model of some layers; its variant is numbered by `study`."""
    curve = [
        CurvePoint(epoch, 5.0 / epoch, scores(top * epoch / 3).all, scores(top * epoch / 3).unseen)
        for epoch in (1, 2, 3)
    ]
    outcome = ModelOutcome(
        recipe="tuned",
        parameters=1234,
        epochs=3,
        best_epoch=3,
        curve=curve,
        losses=[5.0, 2.5, 1.7],
        seconds=Seconds(1.5, 0.5),
        scores=scores(top),
    )
    return layers, Run(variant=0, cut=cut, seed=seed, key=f"{layers}{cut}{seed}", outcome=outcome)


CUT = Cut(
    name="simulated",
    interactions=100_000,
    queries=943,
    candidates=1682,
    train=80_000,
    validation=16_000,
    test=20_000,
    split="random:0.2, seed 42",
    seed=42,
    fingerprint="0123456789ab",
)


def judged(name: str, rival: str, difference: float, over_seeds: Interval | None = None) -> list[Comparison]:
    """A comparison under both protocols whose interval is ± 0.02."""
    verdict: Verdict = (
        "better" if difference > 0.02 else "worse" if difference < -0.02 else "not significantly different"
    )
    return [
        Comparison(name, rival, protocol, "top_100", difference, 0.02, 20_000, 943, over_seeds, verdict)
        for protocol in ("all", "unseen")
    ]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOURCE = Path(twotower.__file__).parent
SLICES = "Where it works and where it does not"
BASELINES = {"popularity": 0.3, "recent_popularity": 0.31, "ease": 0.35, "ials": 0.34, "oracle": 0.7}


def beside(levels: dict[str, float], cut: int = 0) -> list[BaselineRun]:
    """Baselines on test and on validation."""
    outcomes = {name: BaselineOutcome(scores=scores(level), budget=BaselineBudget()) for name, level in levels.items()}
    return [
        BaselineRun(name=name, cut=cut, part=part, key=name, outcome=outcome)
        for name, outcome in outcomes.items()
        for part in ("test", "validation")
    ]


def study(
    models: Sequence[tuple[list[int], Run]], levels: dict[str, float] = BASELINES, name: str = "simulated"
) -> Study:
    stacks = list(dict.fromkeys(tuple(layers) for layers, _ in models))
    runs = [msgspec.structs.replace(run, variant=stacks.index(tuple(layers))) for layers, run in models]
    found = Study(
        cuts=[msgspec.structs.replace(CUT, name=name)],
        varied={"model.layers": [list(stack) for stack in stacks]},
        variants=[Variant(str(list(stack)), {"model.layers": list(stack)}) for stack in stacks],
        runs=runs,
        baselines=beside(levels),
        curves_on="validation",
        metric="top_100",
        comparisons=[],
        verdicts=[],
        command="twotower study --out 'my study'",
        versions={"twotower": "0.1.0"},
        created="2026-01-01T00:00:00+00:00",
        seconds=60.0,
    )
    comparisons = [
        one
        for number, variant in enumerate(found.variants)
        for rival, level in levels.items()
        if rival != "oracle"
        for one in judged(variant.name, rival, found.scores_of(number).all["top_100"] - level)
    ]
    judged_study = msgspec.structs.replace(found, comparisons=comparisons)
    return msgspec.structs.replace(judged_study, verdicts=verdicts(judged_study, comparisons))


ONE_SEED = study([run([32], 0.4), run([64, 32], 0.5)])
SEEDS = study(
    [run(layers, top + 0.01 * seed, seed) for layers, top in (([32], 0.4), ([64, 32], 0.5)) for seed in (0, 1, 2)]
)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_results(SEEDS, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == SEEDS


def test_a_bundle_shows_the_curves_of_its_study(tmp_path: Path) -> None:
    """The curve of each variant, of its first seed, and the baselines on the part that curves are measured on."""
    log = groups_log(200)
    bundle = Retriever.build(toy_model().learn(log), log.candidates, seen=log, notes=Notes(study=note_of(SEEDS)))
    bundle.save(tmp_path / "shop")
    shown = study_of(Retriever.load(tmp_path / "shop").details.notes, bundle.version)
    assert shown.metric == "top_100"
    assert [curve.name for curve in shown.curves] == ["[32]", "[64, 32]"]
    assert [value for _, value in shown.curves[1].points] == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert shown.baselines == BASELINES
    assert shown.remarks == SEEDS.verdicts


def test_what_are_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"runs": 3, "format": 3}')
    with pytest.raises(SavedFolderError, match="holds no study's results"):
        read_results(tmp_path / "results.json")
    with pytest.raises(SavedFolderError, match="does not exist; expected a folder that twotower study wrote"):
        read_results(tmp_path / "nothing" / "results.json")


def test_results_of_an_earlier_format_are_refused(tmp_path: Path) -> None:
    write_results(SEEDS, tmp_path / "results.json")
    raw = msgspec.json.decode((tmp_path / "results.json").read_bytes())
    del raw["format"], raw["cuts"]
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(raw))
    with pytest.raises(SavedFolderError, match="format 1; expected 3, which this version writes: rerun the study"):
        read_results(tmp_path / "results.json")


def test_it_says_what_each_variant_beats_and_what_it_does_not() -> None:
    small = study([run([32], 0.31), run([64, 32], 0.5)], {"popularity": 0.3})
    found = [
        *judged("[32]", "popularity", 0.01),
        *judged("[64, 32]", "popularity", 0.2),
        *judged("[64, 32]", "[32]", 0.19),
    ]
    assert verdicts(small, found) == [
        "[32] is not significantly different from popularity under both protocols (top-100: +0.0100 ± 0.0200 all, "
        "+0.0100 ± 0.0200 unseen).",
        "[64, 32] beats popularity under both protocols (top-100: +0.2000 ± 0.0200 all, +0.2000 ± 0.0200 unseen).",
        "[64, 32] is better than [32] under both protocols (top-100: +0.1900 ± 0.0200 all, +0.1900 ± 0.0200 unseen).",
        "Each variant was trained once; another seed may change their order. --seeds 5 or --split-seeds repeats them.",
        "Differences are paired by event; ± is their 95% interval over 943 queries, wide enough for all 6 comparisons "
        "at once.",
    ]


def test_it_says_how_far_towards_the_oracle_a_study_went() -> None:
    floor = {name: level for name, level in BASELINES.items() if name != "oracle"}
    assert any(s.startswith("[64, 32] closes 50% of the gap between popularity (0.3000)") for s in ONE_SEED.verdicts)
    assert not any("any model can" in sentence for sentence in study([run([32], 0.4)], floor).verdicts)
    assert not any("any model can" in sentence for sentence in study([run([32], 0.31)]).verdicts)


QUERIES = np.repeat(np.arange(50), 4)


def ranked(rank: int, queries: np.ndarray = QUERIES) -> Outcomes:
    return Outcomes(np.full((2, len(queries)), rank, dtype=np.float32), queries, queries < 0)


def test_a_study_compares_every_variant_with_every_baseline_and_with_the_variant_before() -> None:
    models = [run([32], 0.4), run([64, 32], 0.5), run([32], 0.4, seed=1), run([64, 32], 0.5, seed=1)]
    small = study(models, {"popularity": 0.3, "ease": 0.3, "oracle": 0.7})
    ranks = {name: ranked(200) for name in ("popularity", "ease", "oracle")}
    ranks |= {key: ranked(rank) for (_, one), rank in zip(models, (150, 1, 150, 2), strict=True) for key in [one.key]}
    found = comparisons_of(small, ranks)
    assert [(one.name, one.rival, one.verdict) for one in found if one.protocol == "all"] == [
        ("[32]", "popularity", "not significantly different"),
        ("[32]", "ease", "not significantly different"),
        ("[64, 32]", "popularity", "better"),
        ("[64, 32]", "ease", "better"),
        ("[64, 32]", "[32]", "better"),
    ]
    assert [one.over_seeds for one in found] == [None] * 8 + [Interval(1.0, 0.0)] * 2


def test_variants_are_paired_by_split_and_by_seed() -> None:
    """Another split has other events, whose queries may be the same ones."""
    models = [run([32], 0.4), run([64, 32], 0.5), run([32], 0.4, cut=1), run([64, 32], 0.5, cut=1)]
    small = study(models, {})
    two = msgspec.structs.replace(small, cuts=[CUT, msgspec.structs.replace(CUT, seed=43)])
    other = np.repeat(np.arange(10, 60), 4)
    ranks = {
        one.key: ranked(rank, QUERIES if one.cut == 0 else other)
        for (_, one), rank in zip(models, (150, 1, 150, 2), strict=True)
    }
    (found, _) = comparisons_of(two, ranks)
    assert (found.name, found.rival, found.verdict) == ("[64, 32]", "[32]", "better")
    assert found.queries == 60


def test_variants_over_seeds_are_said_with_both_intervals() -> None:
    said = verdicts(SEEDS, judged("[64, 32]", "[32]", 0.1, Interval(0.1, 0.03)))
    assert said[0] == (
        "[64, 32] is better than [32] under both protocols (top-100: +0.1000 ± 0.0200 over queries and ± 0.0300 over "
        "trainings all, +0.1000 ± 0.0200 over queries and ± 0.0300 over trainings unseen)."
    )
    assert "both its interval over queries and its 95% interval over 3 paired trainings" in said[1]


def test_means_have_intervals_over_seeds_and_one_seed_has_its_own_over_queries() -> None:
    shallow, deep, alone = SEEDS.scores_of(0), SEEDS.scores_of(1), ONE_SEED.scores_of(0)
    assert alone.half_widths == {"all.top_100": 0.0123}
    assert shallow.interval("all", "top_100").mean == pytest.approx(0.41)
    assert deep.half_widths["unseen.mrr"] == pytest.approx(4.30265 * 0.0025 / 3**0.5, rel=1e-5)
    assert [(part.name, part.events) for part in deep.slices] == [("head", 15_000), ("tail", 5_000), ("old", 20_000)]
    assert deep.slices[0].unseen["top_100"] == pytest.approx(0.61)
    assert mean_scores([scores(0.2), scores(0.4)]).all["top_100"] == pytest.approx(0.3)


def test_the_strongest_baseline_is_that_of_the_protocol_and_never_the_oracle() -> None:
    one, other = Scores({"mrr": 0.3}, {"mrr": 0.1}), Scores({"mrr": 0.2}, {"mrr": 0.2})
    baselines = {"popularity": one, "ease": other, "oracle": Scores({"mrr": 1.0}, {"mrr": 1.0})}
    assert [strongest(baselines, protocol, "mrr") for protocol in ("all", "unseen")] == ["popularity", "ease"]
    assert strongest({"oracle": one}, "all", "mrr") is None
    assert SEEDS.variants[SEEDS.best].name == "[64, 32]"


@pytest.mark.parametrize(
    "what", [ONE_SEED, SEEDS, study([run([], 0.1)], {"popularity": 0.3})], ids=["one seed", "seeds", "no layer"]
)
def test_the_terminals_table_fits_in_80_columns(what: Study) -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(what))
    shown = capture.get()
    assert "…" not in shown
    assert all(variant.name in shown for variant in what.variants)
    assert ("▾ does not beat popularity (top-100)" in shown) == (what.scores_of(0).all["top_100"] < 0.3)


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
    alone = msgspec.structs.replace(ONE_SEED, baselines=[], comparisons=[])
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


def test_a_band_ends_where_scores_do() -> None:
    """Two trainings that differ by 0.3 have an interval wider than the scores' range."""
    panel = draw_curves(study([run([32], 0.4), run([32], 0.7)])).axes[0]
    band = np.vstack([path.vertices for one in panel.collections for path in one.get_paths()])
    assert (band[:, 1].min(), band[:, 1].max()) == (0.0, 1.0)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    write_curves(SEEDS, tmp_path / "one")
    write_curves(SEEDS, tmp_path / "other")
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert report_html(SEEDS) == report_html(SEEDS)
    assert svg(draw_curves(SEEDS, DARK), "curves") != svg(draw_curves(SEEDS), "curves")


def test_the_report_says_it_all_and_needs_nothing_else() -> None:
    page = report_html(SEEDS)
    for text in ("0123456789ab", "random:0.2, seed 42", "twotower study --out &#39;my study&#39;", *SEEDS.verdicts):
        assert text in page
    for metric in ("top-10", "top-100", "MRR"):
        assert f">{metric}</th>" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    for one in SEEDS.comparisons:
        assert f"{one.difference:+.4f} ± 0.0200</td>" in page
    assert "<script" not in page
    assert "{{" not in page


def test_the_report_shows_slices_with_their_counts_and_the_marks_in_their_places() -> None:
    page = report_html(SEEDS)
    chart = page[page.index(f"<h2>{SLICES}</h2>") : page.rindex("<details>")]
    assert chart.count('<div class="slice">') == 6  # three slices, two protocols
    assert "tail<small>5,000 test events</small>" in chart
    # Of the best model's 0.51, the longest there: popularity 0.3, EASE 0.35.
    for mark, left, name in (
        ("popularity", "58.8%", "popularity: 0.3000"),
        ("strongest", "68.6%", "EASE, the strongest baseline: 0.3500"),
        ("model", "100.0%", "[64, 32], the best model: 0.5100"),
    ):
        assert f'<i class="mark {mark}" style="left:{left}" title="{name}"></i>' in chart
    table = page[page.index("<details>", page.index(f"<h2>{SLICES}</h2>")) : page.rindex("</details>")]
    for text in ("recent popularity", "iALS", "oracle", "head, top-100", "old, MRR"):
        assert f">{text}</th>" in table


def test_popularity_has_one_mark_where_it_is_the_strongest_itself() -> None:
    page = report_html(study([run([32], 0.4)], {"popularity": 0.3, "ease": 0.2}))
    assert page.count("popularity, the strongest baseline</span>") == 2
    assert 'class="mark strongest"' not in page


def test_a_single_epoch_is_one_tick() -> None:
    layers, whole = run([32], 0.4)
    outcome = msgspec.structs.replace(whole.outcome, curve=whole.outcome.curve[:1])
    panel = draw_curves(study([(layers, msgspec.structs.replace(whole, outcome=outcome))])).axes[0]
    low, high = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [1]


def test_a_study_without_slices_has_no_such_section() -> None:
    layers, whole = run([32], 0.4)
    outcome = msgspec.structs.replace(whole.outcome, scores=Scores(scores(0.4).all, scores(0.4).unseen))
    assert SLICES not in report_html(study([(layers, msgspec.structs.replace(whole, outcome=outcome))]))


def test_names_cannot_become_markup() -> None:
    page = report_html(study([run([32], 0.4)], name="<script>alert(1)</script>{{verdicts}}"))
    assert "<script" not in page
    assert "{{verdicts}}" in page


def test_a_varied_number_gets_a_picture_of_the_score_over_it() -> None:
    models = [run([32], 0.3 + 0.1 * number) for number in range(3)]
    runs = [msgspec.structs.replace(one, variant=number, key=str(number)) for number, (_, one) in enumerate(models)]
    shares = [0.1, 0.3, 1.0]
    over = msgspec.structs.replace(
        study([models[0]]),
        varied={"split.train_share": shares},
        variants=[Variant(f"train share {share}", {"split.train_share": share}) for share in shares],
        runs=runs,
        comparisons=[],
    )
    (line,) = [line for line in draw_over_value(over, "split.train_share").axes[0].lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    assert list(line.get_xdata()) == shares  # type: ignore[arg-type]
    assert list(line.get_ydata()) == pytest.approx([0.3, 0.4, 0.5])  # type: ignore[arg-type]
    assert "Score by train share" in report_html(over)
    assert "Score by" not in report_html(SEEDS)


def test_variants_of_a_grid_are_compared_with_their_neighbours_and_named_ones_with_the_first() -> None:
    def neighbours(values: list[dict[str, object]]) -> list[tuple[int, int]]:
        varied = changed_values(values)
        variants = [Variant(str(number), own) for number, own in enumerate(values)]
        return msgspec.structs.replace(ONE_SEED, variants=variants, varied=varied).neighbours

    grid_of_two: list[dict[str, object]] = [{"a": a, "b": b} for a in (1, 2) for b in (1, 2, 3)]
    assert neighbours(grid_of_two) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    assert neighbours([{"a": a} for a in (1, 2, 3)]) == [(0, 1), (1, 2)]
    assert neighbours([{"a": 1}, {"b": 2}, {"a": 2, "c": 3}]) == [(0, 1), (0, 2)]


def rated(one: tuple[list[int], Run], *targets: float) -> tuple[list[int], Run]:
    """A model with a task besides retrieval: three parts, predicted 0.1, 0.4 and 0.8."""
    curve = [ReliabilityBin(*point, 100.0) for point in zip((0.1, 0.4, 0.8), targets, strict=True)]
    found = TaskScores({"log_loss": 0.5, "calibration_error": 0.1}, reliability=curve)
    task = TaskEvaluation(
        task="click", kind="rating", metric="log_loss", units="events", count=300, rows={"model": found}, labels={},
        comparisons=[], notes=[],
    )  # fmt: skip
    return one[0], msgspec.structs.replace(one[1], outcome=msgspec.structs.replace(one[1].outcome, tasks=[task]))


def test_the_report_draws_what_came_over_what_was_predicted() -> None:
    report = report_html(study([rated(run([32], 0.4), 0.1, 0.3, 0.6), rated(run([64, 32], 0.5), 0.2, 0.4, 0.7)]))
    assert report.count("click: predicted and actual") == 1
    assert "predicted and actual" not in report_html(ONE_SEED)
    pictures = re.findall(r"<svg.*?</svg>", report.partition("click: predicted and actual")[2], re.DOTALL)
    assert len(pictures) == 2  # for light and for dark pages
    assert all("[64, 32]" in picture for picture in pictures)


def test_a_reliability_curve_stands_beside_the_diagonal() -> None:
    curves = {"one": [ReliabilityBin(0.1, 0.2, 5.0), ReliabilityBin(0.8, 0.6, 5.0)], "other": []}
    panel = draw_reliability(curves, DARK).axes[0]
    diagonal, one, _ = panel.get_lines()
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert np.asarray(one.get_xydata()).tolist() == [[0.1, 0.2], [0.8, 0.6]]
    assert panel.get_xlim() == panel.get_ylim()
    assert panel.get_xlim() == pytest.approx((0.1 - 0.035, 0.8 + 0.035))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_accessible_and_fits_a_phone(browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra dev").Axe()
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.set_content(report_html(SEEDS))
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    context.close()


def test_the_report_has_the_colours_of_the_services_page() -> None:
    sheets = (SOURCE / "experiments/report/templates/style.css", SOURCE / "serving/page/page.css")
    light, dark = zip(
        *(re.findall(r":root \{\s+--back[^}]+\}", sheet.read_text())[:2] for sheet in sheets), strict=True
    )
    assert "".join(light[0].split()) == "".join(light[1].split())
    assert "".join(dark[0].split()) == "".join(dark[1].split())
