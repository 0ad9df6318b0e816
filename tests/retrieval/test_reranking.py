"""Two stages in one bundle: what is retrieved is re-ranked by a head, everywhere that recommendations come from."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from two_stages import new_candidates, two_stage_log, two_stage_model
from twotower import DotHead, Hnsw, InteractionHead, Ranking, Rerank, StackHead, Trainer
from twotower.cli.main import app
from twotower.errors import ConfigError, SavedFolderError
from twotower.model import TwoTower, rerank
from twotower.model.heads import Head
from twotower.model.sides import candidate_side, query_side
from twotower.retrieval import Retriever, explain
from twotower.retrieval.building import rebuilt
from twotower.retrieval.bulk import recommend_all
from twotower.retrieval.bundle import FORMAT, KIND
from twotower.retrieval.explain import Explanation
from twotower.retrieval.ranking import Ranker
from twotower.retrieval.stores.local import LocalStore
from twotower.saved import write_manifest
from twotower.version import VERSION

QUERIES: list[dict[str, Any]] = [
    {"user": 3},
    {"user": 4, "exclude": [9, 14]},
    {"city": "Ulm"},
    {},
    {"user": 999, "at": 3},
]


def built(model: TwoTower, n: int = 12, **arguments: Any) -> Retriever:
    log = two_stage_log()
    return Retriever.build(model, log.candidates, seen=log, rerank=Rerank(n), **arguments)


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return two_stage_model()


@pytest.fixture(scope="module")
def retriever(model: TwoTower) -> Retriever:
    return built(model)


@pytest.fixture(scope="module")
def saved(retriever: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranked") / "toy.tower"
    retriever.save(folder)
    return folder


@torch.no_grad()
def answers_of(retriever: Retriever, query: dict[str, Any], table: pa.Table | None = None) -> dict[int | str, float]:
    """The head's answer for a query and each candidate, asked one pair at a time of the model itself."""
    model, request = retriever.model, retriever.requests.read(query)
    asked = query_side(model, retriever.requests.encode([request], [retriever.requests.row(request)]))
    table = retriever.candidates if table is None else table
    sides = candidate_side(model, model.encode_candidates(table).whole())
    head = model.heads["rating"]
    found = [float(head(asked, sides.take(torch.tensor([row])))) for row in range(len(table))]
    return dict(zip(table["item"].to_pylist(), found, strict=True))


def test_the_best_n_are_retrieved_and_come_in_the_order_of_the_head(retriever: Retriever) -> None:
    for query in QUERIES[:3]:
        alone = retriever.recommend(query, 12, exclude=[7], where="item != 6", exclude_seen=False, rerank=None)
        found = retriever.recommend(query, 5, exclude=[7], where="item != 6", exclude_seen=False)
        answers = answers_of(retriever, query)
        expected = sorted((one.id for one in alone), key=lambda item: -answers[item])[:5]
        assert [one.id for one in found] == expected
        scores = {one.id: one.score for one in alone}
        assert [one.score for one in found] == pytest.approx([scores[one.id] for one in found])
        assert [one.rerank_score for one in found] == pytest.approx([answers[one.id] for one in found], abs=1e-5)
        assert [one.rerank_score for one in alone] == [None] * 12
        assert [one.id for one in alone][:5] != expected


def test_one_asked_for_more_than_are_re_ranked_gets_them_all_re_ranked(retriever: Retriever) -> None:
    found = retriever.recommend({"user": 3}, 20, exclude_seen=False, rerank=4)
    assert len(found) == 20
    answers = [one.rerank_score for one in found]
    assert answers == sorted(answers, key=lambda one: -(one or 0.0))


def test_nothing_known_means_popularity_and_a_new_query_is_re_ranked(retriever: Retriever) -> None:
    popular = retriever.recommend({}, 5)
    assert (popular.basis, [one.rerank_score for one in popular]) == ("popularity", [None] * 5)
    assert [one.id for one in popular] == [one.id for one in retriever.recommend({}, 5, rerank=None)]
    cold = retriever.recommend({"user": 999, "city": "Ulm"}, 5)
    assert cold.basis == "features"
    assert all(one.rerank_score is not None for one in cold)


@pytest.mark.parametrize(
    "head",
    [DotHead(), StackHead(layers=(8,)), InteractionHead(dim=4, layers=(8,))],
    ids=["dot", "stack", "dot_interaction"],
)
def test_every_kind_of_head_re_ranks(head: Head, tmp_path: Path) -> None:
    retriever = built(two_stage_model(head, epochs=1))
    assert (retriever.bundle.features is None) == (not isinstance(head, InteractionHead))
    retriever.save(tmp_path / "toy.tower")
    for own in (retriever, Retriever.load(tmp_path / "toy.tower")):
        found = own.recommend({"user": 3}, 5, exclude_seen=False, rerank=30)
        answers = answers_of(retriever, {"user": 3})
        assert [one.rerank_score for one in found] == pytest.approx(sorted(answers.values())[:-6:-1], abs=1e-5)


def test_many_answers_are_those_of_each_alone_whatever_is_asked_at_once(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [retriever.recommend(query, 5, exclude=[3]) for query in QUERIES]
    for pairs in (rerank.PAIRS, 30, 1):
        monkeypatch.setattr(rerank, "PAIRS", pairs)
        monkeypatch.setattr("twotower.retrieval.reranking.PAIRS", pairs)
        for one, other in zip(retriever.recommend_many(QUERIES, 5, exclude=[3]), alone, strict=True):
            assert [found.id for found in one] == [found.id for found in other]
            answers = [[found.rerank_score for found in own] for own in (one, other)]
            assert answers[0] == pytest.approx(answers[1], abs=1e-5) if other.basis != "popularity" else True


def test_an_approximate_index_and_diversity_re_rank_too(model: TwoTower, retriever: Retriever) -> None:
    approximate = built(model, index=Hnsw(neighbours=8, build=40, search=64), parity=None)
    assert [one.id for one in approximate.recommend({"user": 3}, 5)] == [
        one.id for one in retriever.recommend({"user": 3}, 5)
    ]
    plain = retriever.recommend({"user": 3}, 5, exclude_seen=False, rerank=30)
    diverse = retriever.recommend({"user": 3}, 5, exclude_seen=False, rerank=30, diversity=0.7)
    assert diverse[0].id == plain[0].id  # the head's best
    assert [one.id for one in diverse] != [one.id for one in plain]
    answers = answers_of(retriever, {"user": 3})
    assert [one.rerank_score for one in diverse] == pytest.approx([answers[one.id] for one in diverse], abs=1e-5)


def test_a_saved_bundle_gives_the_same_and_maps_what_the_head_reads(retriever: Retriever, saved: Path) -> None:
    read = Retriever.load(saved)
    assert read.version == retriever.version
    assert read.details.rerank == Rerank(12, "rating")
    assert read.bundle.features is not None
    assert retriever.bundle.features is not None
    assert torch.equal(read.bundle.features, retriever.bundle.features)
    assert read.recommend_many(QUERIES, 5) == retriever.recommend_many(QUERIES, 5)
    assert read.recommend({"user": 3}, 5, rerank=3) == retriever.recommend({"user": 3}, 5, rerank=3)


def test_the_version_covers_how_much_is_re_ranked(model: TwoTower, retriever: Retriever) -> None:
    assert len({retriever.version, built(model, 13).version, rebuilt_without(retriever).version}) == 3


def rebuilt_without(retriever: Retriever) -> Retriever:
    return Retriever(rebuilt(retriever.bundle, None, retriever.details.index, None))


@pytest.mark.parametrize("change", ["candidates", "towers", "head", "missing"])
def test_parts_that_do_not_belong_together_are_refused(saved: Path, tmp_path: Path, change: str) -> None:
    folder, other = shutil.copytree(saved, tmp_path / "toy.tower"), tmp_path / "other.tower"
    if change == "candidates":
        Retriever.load(saved).add(new_candidates([50])).save(other)
    elif change == "towers":
        built(two_stage_model(epochs=1)).save(other)
    details: Any = msgspec.json.decode((folder / "manifest.json").read_bytes())["details"]
    if other.exists():
        shutil.copy(other / "features.safetensors", folder)
    if change == "head":
        details["rerank"]["by"] = "stars"
    if change == "missing":
        (folder / "features.safetensors").unlink()
    (folder / "manifest.json").unlink()
    write_manifest(folder, KIND, FORMAT, VERSION, details)
    expected = {"head": "by='stars'; expected one of the tasks rating", "missing": "features.safetensors"}
    with pytest.raises(SavedFolderError, match=expected.get(change, f"features.safetensors was made for {change}")):
        Retriever.load(folder)


def test_new_and_changed_candidates_are_re_ranked_by_their_own_columns(retriever: Retriever) -> None:
    added = retriever.add(new_candidates([40, 5])).add(new_candidates([41])).withdraw([2, 40])
    whole = Retriever(rebuilt(added.bundle, added.candidates, added.details.index, None, rerank=Rerank(12)))
    assert added.bundle.features is not None
    assert whole.bundle.features is not None
    assert torch.allclose(added.bundle.features, whole.bundle.features, atol=1e-6)
    answers = answers_of(added, {"user": 3})
    found = added.recommend({"user": 3}, 30, exclude_seen=False)
    assert 41 in [one.id for one in found]
    assert not {2, 40} & {one.id for one in found}
    assert [one.rerank_score for one in found] == pytest.approx([answers[one.id] for one in found], abs=1e-5)


def test_a_store_gives_the_same_lists_and_what_it_changed_counts(retriever: Retriever) -> None:
    bundle = retriever.bundle
    store = LocalStore(bundle.index, bundle.candidates, "item", bundle.details.towers)
    ranker = Ranker(bundle, retriever.requests, retriever._eligible, bundle.model.query_vectors, store)
    for diversity in (0.0, 0.6):
        stored = ranker.rank(QUERIES, 5, True, [7], None, "item != 6", diversity, 12)
        own = retriever.rank(QUERIES, 5, exclude=[7], where="item != 6", diversity=diversity)
        for one, other in zip(stored, own, strict=True):
            assert one.ids(bundle.candidates, "item") == other.ids(bundle.candidates, "item")
            if other.rerank_scores is not None:
                assert one.rerank_scores == pytest.approx(other.rerank_scores, abs=1e-5)
    changed = pa.table({"item": [3, 77], "title": ["item number 8", "number number number"]})
    store.upsert(changed, retriever.model.embed_candidates(changed))  # by somebody else: the bundle is as it was
    (found,) = ranker.rank([{"user": 3}], 31, False, [], None, None, 0.0, 12)
    assert found.found is not None
    answers = answers_of(retriever, {"user": 3}, found.found)
    assert 77 in answers
    assert found.rerank_scores == pytest.approx(list(answers.values()), abs=1e-5)


def test_what_cannot_be_re_ranked_is_refused(model: TwoTower, retriever: Retriever) -> None:
    log = two_stage_log()
    plain = rebuilt_without(retriever)
    for given in (0, -1, 1001, 2.5, True, "all"):
        with pytest.raises(ConfigError, match=r"rerank=.*; expected") as caught:
            retriever.recommend({"user": 3}, rerank=given)  # type: ignore[arg-type]
        assert caught.value.field == "rerank"
    with pytest.raises(ConfigError, match="rerank=5: the bundle has no re-ranking head; expected None") as caught:
        plain.recommend({"user": 3}, rerank=5)
    assert caught.value.field == "rerank"
    assert plain.recommend({"user": 3}, rerank=None) == plain.recommend({"user": 3})
    with pytest.raises(ConfigError, match="rerank: n=0; expected from 1 to 1000"):
        Rerank(0)
    with pytest.raises(ConfigError, match="by='clicks'; expected one of the tasks rating"):
        Retriever.build(model, log.candidates, seen=log, rerank=Rerank(5, "clicks"))
    two = two_stage_model(epochs=1)
    two.add_heads({"order": DotHead()})
    with pytest.raises(ConfigError, match="by is not given; expected one of the tasks rating, order"):
        Retriever.build(two, log.candidates, seen=log, rerank=Rerank(5))
    with pytest.raises(ConfigError, match="the model has no head to re-rank by"):
        Rerank(5).resolved([])


def total(found: Explanation) -> float:
    parts = [*(one.value for one in (*found.query, *found.candidate)), *(one.value for one in found.history)]
    return found.bias + sum(parts)


@pytest.mark.parametrize("most", [explain.EXACT_UP_TO_FOR_HEAD, 0], ids=["exact", "sampled"])
def test_contributions_add_up_to_the_heads_answer(
    retriever: Retriever, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "EXACT_UP_TO_FOR_HEAD", most)
    for query in ({"user": 3}, {"user": 999, "at": 5}, {}):
        answers = answers_of(retriever, query)
        for candidate in (0, 7):
            found = retriever.explain(query, candidate, "rerank")
            assert found.score == pytest.approx(answers[candidate], abs=1e-5)
            assert total(found) == pytest.approx(found.score, abs=1e-5)
            assert found.method.startswith("Shapley values over the features" + (", exact" if most else ", estimated"))


def test_contributions_to_an_answer_are_shapley_values(retriever: Retriever) -> None:
    """The mean over all orders of what each feature changes."""
    found = retriever.explain({"user": 3}, 5, "rerank")
    names = [one.feature for one in (*found.query, *found.candidate)]
    assert names == ["user", "city", "at", "item", "title"]
    model = retriever.model
    encoded = retriever.requests.encode([{"user": 3}], [3])
    candidate = model.encode_candidates(retriever.candidates.slice(5, 1)).whole()
    sides = (
        explain._Explained.of(model.query, encoded, model.scaled_query),
        explain._Explained.of(model.candidate, candidate, model.scaled_candidate),
    )

    def worth(playing: list[int]) -> float:
        masks = [torch.tensor([[place in playing for place in own]]) for own in (range(3), range(3, 5))]
        with torch.no_grad():
            return float(model.heads["rating"](*(own.of_subsets(mask) for own, mask in zip(sides, masks, strict=True))))

    by_hand = np.zeros(5)
    orders = [list(order) for order in permutations(range(5))]
    for order in orders:
        for place, player in enumerate(order):
            by_hand[player] += (worth(order[: place + 1]) - worth(order[:place])) / len(orders)
    assert [one.value for one in (*found.query, *found.candidate)] == pytest.approx(by_hand.tolist(), abs=1e-5)


def test_an_explanation_of_no_score_is_refused(retriever: Retriever) -> None:
    with pytest.raises(ConfigError, match="score='both'; expected retrieval or rerank"):
        retriever.explain({"user": 3}, 5, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no re-ranking head; expected retrieval"):
        rebuilt_without(retriever).explain({"user": 3}, 5, "rerank")


def test_the_head_as_onnx_and_in_tritons_repository_gives_its_answers(
    retriever: Retriever,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    request.getfixturevalue("quick_exports")
    done = CliRunner().invoke(app, ["bundle", str(saved), "--out", str(tmp_path / "onnx.tower"), "--onnx"])
    assert done.exit_code == 0, done.output
    read = Retriever.load(tmp_path / "onnx.tower", engine="onnx")
    for one, other in zip(read.recommend_many(QUERIES, 5), retriever.recommend_many(QUERIES, 5), strict=True):
        assert [found.id for found in one] == [found.id for found in other]

    def content(name: str) -> bytes:  # an export takes seconds
        return (tmp_path / "onnx.tower" / "onnx" / f"{name}.onnx").read_bytes()

    monkeypatch.setattr("twotower.retrieval.triton.exported", lambda _, side, *__: content(side))
    monkeypatch.setattr("twotower.retrieval.triton.exported_ranker", lambda *_: content("ranker"))
    told = ["triton", str(saved), "--out", str(tmp_path / "models"), "--name", "toy"]
    assert "toy_query, toy_candidate and toy_ranker" in CliRunner().invoke(app, told).output
    model, pairs = retriever.model, np.array([[3, 0], [3, 9], [17, 4]])
    asked = retriever.requests.encode([{"user": int(user)} for user in pairs[:, 0]], pairs[:, 0].tolist())
    given = model.encode_candidates(retriever.candidates.take(pa.array(pairs[:, 1]))).whole()
    feeds = {f"query_feature_{place}": rows.numpy() for place, rows in enumerate(asked)}
    feeds |= {f"candidate_feature_{place}": rows.numpy() for place, rows in enumerate(given)}
    with torch.no_grad():
        expected = model.heads["rating"](query_side(model, asked), candidate_side(model, given)).numpy()
    (found,) = runtime.InferenceSession(tmp_path / "models/toy_ranker/1/model.onnx").run(["scores"], feeds)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    config = (tmp_path / "models" / "toy_ranker" / "config.pbtxt").read_text()
    assert '{ name: "scores" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }' in config
    assert [f'name: "{name}"' in config for name in feeds] == [True] * len(feeds)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_file_of_recommendations_has_both_scores(retriever: Retriever, tmp_path: Path, ending: str) -> None:
    pq.write_table(pa.table({"user": [3, 999, 4]}), tmp_path / "queries.parquet")
    out = tmp_path / f"out.{ending}"
    recommend_all(retriever, tmp_path / "queries.parquet", out, 4)
    expected = [retriever.recommend({"user": user}, 4) for user in (3, 999, 4)]
    if ending == "csv":
        assert out.read_text().splitlines()[0] == '"user","rank","candidate","score","rerank_score","basis","version"'
    else:
        rows: list[dict[str, Any]] = (
            pq.read_table(out).to_pylist()
            if ending == "parquet"
            else [msgspec.json.decode(line) for line in out.read_bytes().splitlines()]
        )
        assert [row["candidates"] for row in rows] == [[one.id for one in answer] for answer in expected]
        for row, answer in zip(rows, expected, strict=True):
            answers = [one.rerank_score for one in answer]
            assert row["rerank_scores"] == (answers if answers[0] is None else pytest.approx(answers, abs=1e-5))
    plain = tmp_path / "plain.parquet"
    arguments = ["--queries", str(tmp_path / "queries.parquet"), "-k", "4", "--rerank", "0"]
    retriever.save(tmp_path / "toy.tower")
    for target in (plain, out):  # which replaces the other kind of file
        done = CliRunner().invoke(app, ["recommend", str(tmp_path / "toy.tower"), "--out", str(target), *arguments])
        assert done.exit_code == 0, done.output
    assert "rerank_scores" not in pq.read_table(plain).column_names


def test_commands_re_rank_as_they_are_told(saved: Path, tmp_path: Path) -> None:
    invoke = CliRunner().invoke

    def asked(folder: Path, *options: str) -> list[dict[str, Any]]:
        done = invoke(app, ["recommend", str(folder), "--query", "3", "-k", "4", "--json", *options])
        assert done.exit_code == 0, done.output
        found: list[dict[str, Any]] = msgspec.json.decode(done.stdout)["recommendations"]
        return found

    assert all(one["rerank_score"] is not None for one in asked(saved))
    assert all(one["rerank_score"] is None for one in asked(saved, "--rerank", "0"))
    for options, expected in (
        (["--rerank", "5"], Rerank(5, "rating")),
        (["--rerank", "0"], None),
        ([], Rerank(12, "rating")),
    ):
        done = invoke(app, ["bundle", str(saved), "--out", str(tmp_path / "other.tower"), *options])
        assert done.exit_code == 0, done.output
        assert Retriever.load(tmp_path / "other.tower").details.rerank == expected
    shown = invoke(app, ["recommend", str(saved), "--query", "3"], terminal_width=100)
    assert "rerank score" in shown.stdout + shown.stderr


def test_a_ranking_head_re_ranks(tmp_path: Path) -> None:
    model, log = two_stage_model(epochs=1), two_stage_log()
    ranking = Ranking(negatives=4, head=StackHead(reads="features", layers=(8,)))
    Trainer(epochs=1, batch_size=128, tasks=(ranking,)).fit(model, log)
    retriever = Retriever.build(model, log.candidates, seen=log, rerank=Rerank(12, "ranking"))
    retriever.save(tmp_path / "toy.tower")
    assert Retriever.load(tmp_path / "toy.tower").recommend(3, 5) == retriever.recommend(3, 5)
