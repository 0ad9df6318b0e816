"""`evaluate_rerank`: what re-ranking adds to retrieval alone, for the same events, candidates and exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from rich.table import Table

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.evaluation.comparisons import Comparison, Pair, compare
from twotower.evaluation.grid import Grid
from twotower.evaluation.intervals import weighted_mean
from twotower.evaluation.metrics import (
    DEFAULT_KS,
    FloatArray,
    IntArray,
    Scores,
    metric_label,
    rank_half_widths,
    rank_metrics,
)
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes, event_weights, events_that_count, repeats_of
from twotower.evaluation.ranking import (
    DotProducts,
    RankCounter,
    among_available,
    blocks_of,
    top_lists,
    without_excluded,
)
from twotower.evaluation.verdicts import interval_note, verdict_sentences
from twotower.model.heads import Side
from twotower.model.rerank import Rerank, pair_logits
from twotower.model.sides import query_side
from twotower.model.two_tower import TwoTower
from twotower.progress import ReportStep, no_report
from twotower.threads import adapted_threads

MAX_EVENTS = 20_000
"""Maximum number of test events that re-ranking is measured on; larger test parts are sampled."""

METRICS = ("ndcg_10", "top_10")
"""Metrics of the comparison; with one true candidate per event, top-10 is recall@10."""

RETRIEVAL, RERANKED = "retrieval alone", "re-ranked"


class RerankEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Retrieval alone compared with retrieve-and-re-rank, on the same test events.

    Attributes:
        n: Number of candidates retrieved and re-ranked.
        by: The head that re-ranked them.
        events: Number of test events measured.
        reachable: Share of the events whose candidate is among the n retrieved, by protocol: the upper bound for any
            order of these.
        rows: Scores by name: `retrieval alone` and `re-ranked`.
        comparisons: Gain of re-ranking in NDCG@10 and top-10 (recall@10, with one true candidate).
        notes: The results in sentences.
    """

    n: int
    by: str
    events: int
    reachable: dict[str, float]
    rows: dict[str, Scores]
    comparisons: list[Comparison]
    notes: list[str]

    def table(self) -> Table:
        """Both under both protocols, as a table for the terminal."""
        return self.grid().rich()

    def grid(self) -> Grid:
        """Both under both protocols."""
        metrics = [*(f"top_{k}" for k in DEFAULT_KS), "mrr", "ndcg_10"]
        rows = [
            [protocol, name, *(f"{getattr(scores, protocol)[metric]:.4f}" for metric in metrics)]
            for protocol in PROTOCOLS
            for name, scores in self.rows.items()
        ]
        strong = frozenset(number for number, row in enumerate(rows) if row[1] == RERANKED)
        return Grid(["", "", *map(metric_label, metrics)], rows, words=2, strong=strong, lines=frozenset({1}))

    def figures(self) -> list[dict[str, Any]]:
        """All metrics of both, as rows of `Evaluation.to_table`."""
        return [figure for name, scores in self.rows.items() for figure in scores.figures(name)]


def evaluate_rerank(
    model: TwoTower, test: Dataset, train: Dataset, rerank: Rerank, step: ReportStep = no_report
) -> RerankEvaluation:
    """Measures what re-ranking by a head adds to retrieval by the towers.

    Args:
        model: A trained model that has the head.
        test: The events to evaluate on; more than 20,000 are sampled with a fixed seed.
        train: The events that `unseen` excludes.
        rerank: How many candidates to re-rank, and by which head.
        step: Receives the progress.

    Raises:
        ConfigError: The model has no such head.
        DataError: Every event of test has weight 0.
        TwoTowerError: An embedding is not finite.
    """
    rerank = rerank.resolved(model.heads)
    counting = events_that_count(test)
    if len(counting) > MAX_EVENTS:
        counting = counting.take(np.sort(np.random.default_rng(0).permutation(len(counting))[:MAX_EVENTS]))
    alone, both = two_stage_outcomes(model, counting, train, rerank, step)
    name = f"re-ranking the best {rerank.n} by {rerank.by}"
    comparisons = compare([Pair(name, [both], RETRIEVAL, [alone])], *METRICS)
    reachable = {
        protocol: weighted_mean(alone.values(protocol, f"top_{rerank.n}"), alone.weights) for protocol in PROTOCOLS
    }
    notes = rerank_sentences(comparisons, rerank, reachable)
    if len(counting) < len(test):
        notes.append(f"Re-ranking is measured on {len(counting):,} of the {len(test):,} test events.")
    return RerankEvaluation(
        n=rerank.n,
        by=rerank.head,
        events=len(counting),
        reachable=reachable,
        rows={RETRIEVAL: _scores(alone), RERANKED: _scores(both)},
        comparisons=comparisons,
        notes=notes,
    )


def rerank_sentences(comparisons: Sequence[Comparison], rerank: Rerank, reachable: dict[str, float]) -> list[str]:
    """Sentences on what re-ranking adds, and what to do if it adds nothing.

    Args:
        comparisons: Comparisons of NDCG@10 and top-10.
        rerank: The re-ranking that was measured.
        reachable: Share of the events whose candidate is retrieved, by protocol.
    """
    said = [
        sentence
        for metric in METRICS
        for sentence in verdict_sentences([one for one in comparisons if one.metric == metric])
    ]
    said += interval_note(comparisons)
    shares = ", ".join(f"{share:.1%} {protocol}" for protocol, share in reachable.items())
    said.append(f"The top {rerank.n} retrieved candidates include the true one for {shares} of the events.")
    verdicts = {one.verdict for one in comparisons if one.metric == METRICS[0]}
    if "better" not in verdicts and verdicts != {"too few queries"}:
        order = "better" if "worse" in verdicts else "as good on these events"
        said.append(f"The towers' own order is {order}: leave `rerank` out, which is simpler and faster.")
    return said


def two_stage_outcomes(
    model: TwoTower, test: Dataset, train: Dataset, rerank: Rerank, step: ReportStep = no_report
) -> tuple[Outcomes, Outcomes]:
    """Ranks of every event by retrieval alone, and by retrieve-and-re-rank.

    If the true candidate is among the n retrieved (after exclusions), its rank is the one that the head gives it among
    these. Otherwise it keeps its retrieval rank. Ties count half, as everywhere.

    Args:
        model: A trained model.
        test: The events, all with weights above 0.
        train: The events that `unseen` excludes.
        rerank: How many candidates to re-rank, and by which head; already resolved.
        step: Receives the progress.
    """
    counter, order = RankCounter(), _HeadOrder(model, test, rerank)
    score = among_available(DotProducts(model.embed_queries(test), order.vectors), test)
    size, ranks = test.candidates.num_rows, np.empty((2, 2, len(test)))
    done = 0
    with adapted_threads() as pace:
        for block in blocks_of(test, Seen.of(train)):
            with pace.step(len(block.numbers)):
                scores = counter.scored(score, block)
                alone = counter.ranks(scores, block)
                chosen = block.chosen.numpy()[:, 0]
                for protocol in range(2):
                    left = scores if protocol == 0 else without_excluded(scores, block)
                    lists = top_lists(left[:, :size], rerank.n)
                    ranks[0, protocol, block.numbers] = alone[protocol]
                    ranks[1, protocol, block.numbers] = order.ranks(block.numbers, chosen, lists, alone[protocol])
            done += len(block.numbers)
            step("re-ranking", done / len(test))
    repeats, weights = repeats_of(test, train), event_weights(test)
    alone_outcomes, both = (Outcomes(own.astype(np.float32), test.query_index, repeats, weights) for own in ranks)
    return alone_outcomes, both


class _HeadOrder:
    """Re-ranks retrieved candidates by a head, for events encoded once."""

    def __init__(self, model: TwoTower, test: Dataset, rerank: Rerank) -> None:
        self.model, self.head = model, model.heads[rerank.head]
        self.queries = model.encode_queries(test).to(model.device)
        candidates = model.encode_candidates(test.candidates).to(model.device)
        self.vectors = model.embed_side(candidates, model.candidate_vectors)
        features = (
            model.embed_side(candidates, model.candidate.read) if self.head.reads_features else self.vectors[:, :0]
        )
        self.candidates = Side(features, self.vectors)

    @torch.no_grad()
    def ranks(self, numbers: IntArray, chosen: IntArray, lists: IntArray, alone: FloatArray) -> FloatArray:
        """Ranks of events after re-ranking, `[b]`.

        Args:
            numbers: Indices of the events, `[b]`.
            chosen: Their true candidates, `[b]`.
            lists: Retrieved candidates of each, −1 for empty places, `[b, n]`.
            alone: Their ranks by retrieval alone, `[b]`.
        """
        is_true = lists == chosen[:, np.newaxis]
        hits = np.flatnonzero(is_true.any(axis=1))
        found: FloatArray = np.maximum(alone, lists.shape[1] + 1)
        if len(hits) == 0:
            return found
        was_training = self.model.training
        self.model.eval()
        device = self.model.device
        side = query_side(self.model, self.queries.gather(torch.from_numpy(numbers[hits]).to(device)))
        there = lists[hits] >= 0
        asked, place = np.nonzero(there)
        rows = torch.from_numpy(lists[hits][asked, place]).to(device)
        logits = np.full(there.shape, -np.inf)
        answered = pair_logits(self.head, side, torch.from_numpy(asked).to(device), self.candidates, rows)
        self.model.train(was_training)
        if not bool(answered.isfinite().all()):
            raise TwoTowerError("an output of the re-ranking head is not finite: training has diverged")
        logits[there] = answered.double().cpu().numpy()
        true = logits[is_true[hits]][:, np.newaxis]
        found[hits] = ((logits > true).sum(axis=1) + (logits >= true).sum(axis=1) + 1) / 2
        return found


def _scores(outcomes: Outcomes) -> Scores:
    """Rank metrics with intervals."""
    ranks, weights = outcomes.ranks.astype(np.float64), outcomes.weights
    everything, unseen = (rank_metrics(own, DEFAULT_KS, weights) for own in ranks)
    half_widths = {
        f"{protocol}.{metric}": width
        for protocol, own in zip(PROTOCOLS, ranks, strict=True)
        for metric, width in rank_half_widths(own, outcomes.queries, DEFAULT_KS, weights).items()
    }
    return Scores(everything, unseen, half_widths)
