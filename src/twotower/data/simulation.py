"""The simulated data set: choices drawn from known probabilities, so the best possible score is known too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.arguments import checks_arguments, refuse_below
from twotower.data.checks import check_data_name
from twotower.data.dataset import Dataset
from twotower.data.simulation_tables import GENRES, candidate_table, query_table
from twotower.data.tables import from_tables

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CANDIDATES_PER_CLUSTER = 35
MAX_CLUSTERS = 400
STATIC_TASTES, DRIFT_PLANES = 4, 2
STATIC_STRENGTH, DRIFT_STRENGTH = 1.0, 2.5
CLUSTER_POPULARITY, ZIPF_EXPONENT = 0.3, 0.7
START, DURATION = 1_262_304_000, 2 * 365 * 86_400
"""In seconds: the log begins on 2010-01-01 and spans two years."""

EVENTS_PER_SESSION, GAP_IN_SESSION = 8, 180.0
BLOCK = 1 << 14


@dataclass(frozen=True, eq=False)
class _World:
    """The ground truth: who likes what, and when.

    Attributes:
        static: Constant tastes of each query, `[Q, s]`.
        drifting: Drifting tastes of each query, as planes of two coordinates, `[Q, p, 2]`.
        cluster_static: Loadings of each cluster on the constant tastes, `[K, s]`.
        cluster_drifting: Loadings of each cluster on the drifting tastes, `[K, p, 2]`.
        cluster_popularity: Popularity of each cluster, the same for every query, `[K]`.
        turns: Number of rotations of each plane over the whole duration, `[p]`.
        cluster: Cluster of each candidate, `[C]`.
        log_share: Log-probability of each candidate within its cluster, `[C]`.
    """

    static: FloatArray
    drifting: FloatArray
    cluster_static: FloatArray
    cluster_drifting: FloatArray
    cluster_popularity: FloatArray
    turns: FloatArray
    cluster: IntArray
    log_share: FloatArray

    def cluster_log_probabilities(self, queries: IntArray, times: FloatArray) -> FloatArray:
        """Log-probability of each cluster, `[n, K]`."""
        angle = 2 * np.pi * ((times - START) / DURATION)[:, None] * self.turns  # [n, p]
        cosine, sine = np.cos(angle), np.sin(angle)
        first, second = self.drifting[queries, :, 0], self.drifting[queries, :, 1]
        turned = np.stack([cosine * first - sine * second, sine * first + cosine * second], axis=2)  # [n, p, 2]
        tastes = np.concatenate([self.static[queries], turned.reshape(len(queries), -1)], axis=1)
        drifting = self.cluster_drifting.reshape(len(self.cluster_static), -1)
        offers = np.concatenate([self.cluster_static, drifting], axis=1)  # [K, s + 2p]
        # einsum sums in the same order on every machine; in a matrix product, the order depends on the thread count.
        logits = self.cluster_popularity + np.einsum("nd,kd->nk", tastes, offers)
        logits -= logits.max(axis=1, keepdims=True)
        normalised: FloatArray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return normalised

    def log_probabilities(self, query_index: IntArray, times: FloatArray) -> npt.NDArray[np.float32]:
        """Log-probability of every candidate, `[n, C]`."""
        clusters = self.cluster_log_probabilities(query_index, times)
        return (clusters[:, self.cluster] + self.log_share).astype(np.float32)


@checks_arguments
def simulated(
    queries: int = 943, candidates: int = 1682, interactions: int = 100_000, *, seed: int = 0, name: str = "simulated"
) -> Dataset:
    """A log in the shape of MovieLens 100K, drawn from known probabilities (docs/concepts/simulated-data.md).

    Candidates belong to clusters, and clusters to genres. A query draws a cluster from a softmax over its constant
    tastes and over tastes that rotate with time, from a different starting angle for each query; then it draws a
    candidate of that cluster by popularity. The effect of time thus depends on the query: a sum of a query embedding
    and a time embedding cannot represent it, but a non-linear layer can. `Dataset.oracle` has the true probabilities.

    Args:
        queries: Number of queries (users).
        candidates: Number of candidates (films).
        interactions: Number of events; tens of millions fit in a few gigabytes.
        seed: Random seed; the same seed gives the same data, bit for bit.
        name: Name in reports.

    Raises:
        ConfigError: A size is below 1, the seed is below 0, one of them is not a whole number, or the name is blank.

    Example:
        >>> data = simulated(queries=50, candidates=40, interactions=1000)
        >>> probabilities = np.exp(data.oracle.log_probabilities(np.array([0, 1]), data.times[:2]))
        >>> probabilities.sum(axis=1).round(5).tolist()
        [1.0, 1.0]
    """
    refuse_below(1, "simulated", queries=queries, candidates=candidates, interactions=interactions)
    refuse_below(0, "simulated", seed=seed)
    check_data_name(name)
    draw = np.random.default_rng(seed)
    genre_of_cluster, world = _world(queries, candidates, draw)
    who = _activity(queries, interactions, draw)
    when = _times(who, draw)
    order = np.argsort(when, kind="stable")
    who, when = who[order], when[order]
    what = _choices(world, who, when, draw)
    log = pa.table({"user_id": who + 1, "movie_id": what + 1, "timestamp": when})
    data = from_tables(
        log,
        query_id="user_id",
        candidate_id="movie_id",
        time="timestamp",
        queries=query_table(world.static, draw),
        candidates=candidate_table(genre_of_cluster[world.cluster], draw),
        name=name,
    )
    return replace(data, oracle=world)


def _world(queries: int, candidates: int, draw: np.random.Generator) -> tuple[IntArray, _World]:
    clusters = max(1, min(MAX_CLUSTERS, candidates // CANDIDATES_PER_CLUSTER))
    genre = draw.permutation(np.arange(clusters) % len(GENRES))
    width = STATIC_TASTES + 2 * DRIFT_PLANES
    of_genre = draw.normal(size=(len(GENRES), width))
    offers = (0.8 * of_genre[genre] + 0.6 * draw.normal(size=(clusters, width))) / np.sqrt(width / 2)
    others = draw.integers(clusters, size=candidates - clusters)
    cluster = np.concatenate([np.arange(clusters), others])  # none is empty
    return genre, _World(
        static=draw.normal(size=(queries, STATIC_TASTES)) * STATIC_STRENGTH,
        drifting=draw.normal(size=(queries, DRIFT_PLANES, 2)) * DRIFT_STRENGTH,
        cluster_static=offers[:, :STATIC_TASTES],
        cluster_drifting=offers[:, STATIC_TASTES:].reshape(clusters, DRIFT_PLANES, 2),
        cluster_popularity=draw.normal(size=clusters) * CLUSTER_POPULARITY,
        turns=np.linspace(0.5, 1.0, DRIFT_PLANES),
        cluster=cluster,
        log_share=_log_shares(cluster, clusters, draw),
    )


def _log_shares(cluster: IntArray, clusters: int, draw: np.random.Generator) -> FloatArray:
    """Log-probability of each candidate within its cluster: proportional to 1 / rank^ZIPF_EXPONENT, in random order."""
    order = np.lexsort((draw.random(len(cluster)), cluster))
    sizes = np.bincount(cluster, minlength=clusters)
    place = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    weight = np.empty(len(cluster))
    weight[order] = place**-ZIPF_EXPONENT
    return np.log(weight / np.bincount(cluster, weights=weight, minlength=clusters)[cluster])


def _activity(queries: int, interactions: int, draw: np.random.Generator) -> IntArray:
    """The query of each event: long-tailed activity, with a minimum per query if there are enough events."""
    share = draw.lognormal(sigma=0.75, size=queries)
    floor = min(20, interactions // queries // 2)
    rest = draw.multinomial(interactions - floor * queries, share / share.sum())
    return np.repeat(np.arange(queries), floor + rest)


def _times(who: IntArray, draw: np.random.Generator) -> IntArray:
    """The time of each event: sessions of a few events, minutes apart, at random times of the whole duration."""
    place = np.arange(len(who)) - np.searchsorted(who, who)
    opens = place % EVENTS_PER_SESSION == 0
    session = np.cumsum(opens) - 1
    begins = draw.random(int(opens.sum())) * (DURATION - 86_400)
    gaps = np.where(opens, 0.0, draw.exponential(GAP_IN_SESSION, size=len(who)))
    since_all = np.cumsum(gaps)
    within = np.minimum(since_all - since_all[opens][session], 86_400 - 1)
    times: IntArray = (START + begins[session] + within).astype(np.int64)
    return times


def _choices(world: _World, who: IntArray, when: IntArray, draw: np.random.Generator) -> IntArray:
    """The candidate of each event: a cluster given query and time, then a candidate of that cluster."""
    by_cluster = np.argsort(world.cluster, kind="stable")
    share = np.exp(world.log_share[by_cluster])
    sizes = np.bincount(world.cluster, minlength=len(world.cluster_static))
    ends = np.cumsum(sizes)
    running = np.cumsum(share)
    within = running - np.repeat(np.concatenate([[0.0], running[ends[:-1] - 1]]), sizes)
    # One increasing sequence for all clusters: integer part = cluster, fraction = cumulative share within it.
    bounds = world.cluster[by_cluster] + np.minimum(within, 1.0)
    bounds[ends - 1] = np.arange(len(sizes)) + 1.0
    what = np.empty(len(who), dtype=np.int64)
    for start in range(0, len(who), BLOCK):
        part = slice(start, start + BLOCK)
        chance = np.exp(world.cluster_log_probabilities(who[part], when[part].astype(np.float64)))
        reached = np.cumsum(chance, axis=1)
        drawn = draw.random((len(chance), 2))
        chosen = (reached < (drawn[:, :1] * reached[:, -1:])).sum(axis=1)
        place = np.searchsorted(bounds, chosen + drawn[:, 1], side="right")
        what[part] = by_cluster[place]
    return what
