from __future__ import annotations

from twotower.evaluation import Scores, comparisons


def scores(value: float, half_widths: dict[str, float] | None = None) -> Scores:
    return Scores({"top_100": value, "mrr": value / 2}, {"top_100": value + 0.1, "mrr": value / 2}, half_widths or {})


def test_one_sentence_a_protocol_names_every_baseline_with_its_figure() -> None:
    baselines = {"popularity": scores(0.2), "item_knn": scores(0.3), "ease": scores(0.4), "ials": scores(0.5)}
    said = comparisons("the model", scores(0.4, {"all.top_100": 0.01}), baselines | {"oracle": scores(0.9)})
    assert said == [
        "The model (top_100, all: 0.4000 ± 0.0100) beats popularity (0.2000) and item-kNN (0.3000), "
        "does not beat EASE (0.4000) or iALS (0.5000).",
        "The model (top_100, unseen: 0.5000) beats popularity (0.3000) and item-kNN (0.4000), "
        "does not beat EASE (0.5000) or iALS (0.6000).",
    ]


def test_it_says_nothing_of_a_baseline_that_is_not_there() -> None:
    assert comparisons("[32]", scores(0.1), {"popularity": scores(0.2)})[0] == (
        "[32] (top_100, all: 0.1000) does not beat popularity (0.2000)."
    )
    assert comparisons("[32]", scores(0.1), {}) == []


def test_mrr_stands_in_where_lists_hold_everything_or_were_not_measured() -> None:
    assert "(mrr, all: 0.5000)" in comparisons("[32]", scores(1.0), {"ease": scores(1.0)})[0]
    alone = Scores({"mrr": 0.3}, {"mrr": 0.3})
    assert "(mrr, all: 0.3000)" in comparisons("[32]", alone, {"ease": alone})[0]
