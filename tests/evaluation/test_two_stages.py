"""What re-ranking adds: ranks against the plain definition, and sentences where it helps and where it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from two_stages import two_stage_log, two_stage_model
from twotower import HEADS, DotHead, Rerank, Settings, Tower, evaluate
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation import Pair, compare, evaluate_rerank, two_stages
from twotower.evaluation.baselines import Popularity
from twotower.evaluation.two_stages import two_stage_outcomes
from twotower.model import TwoTower
from twotower.model.heads import HeadModule, Link, Shape, Side
from twotower.model.sides import candidate_side, query_side


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return two_stage_model()


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    train, test = split_random(two_stage_log(), test=0.3, seed=1)
    return train, test


@torch.no_grad()
def by_definition(model: TwoTower, test: Dataset, train: Dataset, n: int) -> np.ndarray:
    """Rank of each event, one after the other: retrieve n of what may be found, sort them by the head's answers."""
    queries = query_side(model, model.encode_queries(test).whole())
    candidates = candidate_side(model, model.encode_candidates(test.candidates).whole())
    scores = (queries.vectors @ candidates.vectors.T).numpy()
    seen = {
        (query, item) for query, item in zip(train.query_index.tolist(), train.candidate_index.tolist(), strict=True)
    }
    ranks = np.empty((2, len(test)))
    for event, (query, true) in enumerate(zip(test.query_index.tolist(), test.candidate_index.tolist(), strict=True)):
        for protocol in range(2):
            left = [item for item in range(30) if not protocol or item == true or (query, item) not in seen]
            order = sorted(left, key=lambda item: -scores[event, item])
            if true in order[:n]:
                rows = torch.tensor(order[:n])
                asked = queries.take(torch.full((len(rows),), event))
                answers = model.heads["rating"].logits(asked, candidates.take(rows)).tolist()
                order = [item for _, item in sorted(zip(answers, order[:n], strict=True), reverse=True)]
            ranks[protocol, event] = order.index(true) + 1
    return ranks


@pytest.mark.parametrize("n", [1, 7, 30, 100])
def test_ranks_are_those_of_the_definition(model: TwoTower, parts: tuple[Dataset, Dataset], n: int) -> None:
    train, test = parts
    alone, both = two_stage_outcomes(model, test, train, Rerank(n, "rating"))
    np.testing.assert_allclose(both.ranks, by_definition(model, test, train, n))
    np.testing.assert_allclose(alone.ranks, by_definition(model, test, train, 1))


def test_the_report_has_both_and_says_what_it_adds(model: TwoTower, parts: tuple[Dataset, Dataset]) -> None:
    train, test = parts
    found = evaluate(model, test, train, baselines="none", progress=False, rerank=Rerank(10))
    stages = found.rerank
    assert stages is not None
    assert (stages.n, stages.by, stages.events) == (10, "rating", len(test))
    for protocol in ("all", "unseen"):
        own = getattr(stages.rows["retrieval alone"], protocol)
        assert own["ndcg_10"] == pytest.approx(getattr(found.model, protocol)["ndcg_10"])
        assert stages.reachable[protocol] == pytest.approx(own["top_10"])
        difference = getattr(stages.rows["re-ranked"], protocol)["ndcg_10"] - own["ndcg_10"]
        (compared,) = [one for one in stages.comparisons if (one.metric, one.protocol) == ("ndcg_10", protocol)]
        if protocol == "all":
            assert compared.difference == pytest.approx(difference)
    # Two metrics under two protocols hold together.
    alone, both = two_stage_outcomes(model, test, train, Rerank(10, "rating"))
    four = compare([Pair("re-ranking", [both], "retrieval", [alone])] * 2, "top_10")
    assert [one.half_width for one in stages.comparisons if one.metric == "top_10"] == [
        one.half_width for one in four[:2]
    ]
    assert any("wide enough for all 4 comparisons at once" in note for note in stages.notes)
    # Stars say nothing of what is chosen here, so that their order is worse than the towers'.
    assert any("is worse than retrieval alone" in note for note in stages.notes)
    assert any("leave `rerank` out" in note for note in stages.notes)
    assert "re-ranked" in str(found)
    assert stages.notes[0] in " ".join(str(found).split())
    assert "re-ranked" in found._repr_html_()
    assert {"re-ranked", "retrieval alone"} <= set(found.to_table()["scorer"].to_pylist())


@HEADS.register
class Opposite(Settings, frozen=True, tag="opposite of a test", tag_field="kind"):
    """The dot product turned around."""

    link: Link = "identity"

    def build(self, shape: Shape) -> HeadModule:
        del shape
        return OppositeModule(self.link)


class OppositeModule(HeadModule):
    def score(self, query: Side, candidate: Side) -> torch.Tensor:
        return -(query.vectors * candidate.vectors).sum(dim=1)


def test_an_order_that_helps_is_said_to(parts: tuple[Dataset, Dataset]) -> None:
    """Behind towers whose scores are turned around, a head that turns them back has to help."""
    train, test = parts
    turned = two_stage_model(DotHead(), epochs=7)
    turned.add_heads({"opposite": Opposite()})
    assert isinstance(turned.query, Tower)
    with torch.no_grad():
        for parameter in turned.query.stack.parameters():
            parameter.neg_()
    found = evaluate_rerank(turned, test, train, Rerank(30, "opposite"))
    assert found.notes[0].startswith("Re-ranking the best 30 by opposite beats retrieval alone under both protocols")
    assert not any("leave `rerank` out" in note for note in found.notes)


def test_long_tests_are_sampled_and_wrong_arguments_refused(
    model: TwoTower, parts: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = parts
    monkeypatch.setattr(two_stages, "MAX_EVENTS", 40)
    found = evaluate_rerank(model, test, train, Rerank(5))
    assert found.events == 40
    assert found.notes[-1] == f"Re-ranking is measured on 40 of the {len(test)} test events."
    with pytest.raises(ConfigError, match="by='clicks'; expected one of the tasks rating"):
        evaluate_rerank(model, test, train, Rerank(5, "clicks"))
    with pytest.raises(ConfigError, match="measured on a TwoTower"):
        evaluate(Popularity(train), test, train, rerank=Rerank(5))


def test_answers_that_are_no_numbers_are_refused(parts: tuple[Dataset, Dataset]) -> None:
    train, test = parts
    broken = two_stage_model(epochs=1)
    with torch.no_grad():
        next(broken.heads["rating"].parameters()).fill_(float("nan"))
    with pytest.raises(TwoTowerError, match="re-ranking head is not finite"):
        evaluate_rerank(broken, test, train, Rerank(5))
