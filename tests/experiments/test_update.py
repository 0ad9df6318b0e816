"""The daily loop: what is published, what is refused and why, and the way back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from toy import groups_log, log_of, toy_model
from twotower import Exact, Hnsw, Retriever
from twotower.errors import ConfigError
from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.warm_start import WarmStartEvaluation, named
from twotower.experiments import update as update_module
from twotower.experiments.drift import drift, input_summary
from twotower.experiments.gates import Gate, GateSettings, coverage_gate, input_gates, score_gate
from twotower.experiments.update import UpdateReport, UpdateSettings, roll_back, update
from twotower.experiments.versions import versions_of
from twotower.retrieval.building import rebuilt
from twotower.retrieval.bundle import load_bundle, with_onnx
from twotower.retrieval.continued import moments_of
from twotower.retrieval.publishing import with_store
from twotower.retrieval.stores.milvus import Milvus
from twotower.retrieval.stores.pgvector import PgVector
from twotower.training import Moments
from warm_fixtures import ALL, NEW, OLD, config_of

LENIENT = GateSettings(tolerance=1.0, coverage=0.0, drift=9.0, events=0.0)


pytestmark = pytest.mark.usefixtures("no_pool")


@pytest.fixture(scope="module")
def updated(warm_logs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[UpdateReport]]:
    """A bundle after three updates: the first, one on the events after it, and one whose score is too low."""
    bundle = tmp_path_factory.mktemp("shop") / "model"
    settings = UpdateSettings(gates=LENIENT, only_new=True, keep=2)
    reports = [update(config_of(warm_logs[OLD]), bundle, settings)]
    Retriever(rebuilt(load_bundle(bundle), None, Hnsw(neighbours=8, build=40), None)).save(bundle)  # with an index
    reports.append(update(config_of(warm_logs[ALL]), bundle, settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update_module, "score_gate", lambda *_: Gate("score", False, "The score is below the old one."))
        reports.append(update(config_of(warm_logs[ALL]), bundle, settings))
    return bundle, reports


def test_the_first_bundle_is_trained_and_published(updated: tuple[Path, list[UpdateReport]]) -> None:
    _, (first, _, _) = updated
    assert (first.outcome, first.before) == ("published", None)
    assert first.kept == [first.version]
    assert [gate.name for gate in first.gates] == ["drift", "score"]


def test_the_next_one_goes_on_from_it_with_its_index(updated: tuple[Path, list[UpdateReport]]) -> None:
    bundle, (_, second, _) = updated
    assert second.outcome == "published"
    assert {gate.name: gate.passed for gate in second.gates} == dict.fromkeys(
        ("events", "drift", "score", "coverage", "parity"), True
    )
    served = Retriever.load(bundle)
    assert served.version == second.version
    assert served.details.notes.started_from == second.before
    assert isinstance(served.details.index, Hnsw)
    assert Moments.load(moments_of(bundle)).towers == served.details.towers
    assert second.kept == [second.before, second.version]  # two of the three that there were


def test_a_worse_bundle_is_refused_and_kept_for_a_look(updated: tuple[Path, list[UpdateReport]]) -> None:
    bundle, (_, second, third) = updated
    assert third.outcome == "refused"
    assert third.version == second.version == Retriever.load(bundle).version
    assert third.reasons == ["The score is below the old one."]
    assert third.evaluation is not None
    assert third.refused is not None
    assert Retriever.load(third.refused).version not in third.kept


def test_inputs_are_refused_before_anything_is_trained(
    updated: tuple[Path, list[UpdateReport]], warm_logs: dict[str, Path], tmp_path: Path
) -> None:
    bundle, (_, second, _) = updated
    table = pq.read_table(warm_logs[NEW])
    few = tmp_path / "few.parquet"
    pq.write_table(table.slice(table.num_rows - 20), few)
    report = update(config_of(few), bundle, UpdateSettings(gates=GateSettings(events=0.9)))
    assert (report.outcome, report.version, report.evaluation) == ("refused", second.version, None)
    assert len(report.reasons) == 1
    assert re.fullmatch(r"There are 20 events; the last update had \d+\.", report.reasons[0])


def test_going_back_serves_the_version_before(updated: tuple[Path, list[UpdateReport]]) -> None:
    """Runs last: what it went back from does not come back."""
    bundle, (_, second, _) = updated
    back = roll_back(bundle)
    assert (back.outcome, back.version, back.before) == ("rolled back", second.before, second.version)
    assert Retriever.load(bundle).version == second.before
    with pytest.raises(ConfigError, match="no earlier version to go back to"):
        roll_back(bundle)


def test_without_versions_there_is_none_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model has no earlier version to go back to, and no versions are kept$"):
        roll_back(tmp_path / "model")
    first = toy_bundle(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"model has no earlier version to go back to; kept: {first}$"):
        roll_back(tmp_path / "model")


@pytest.mark.parametrize("kind", ["pgvector", "milvus"])
def test_updates_of_a_bundle_with_a_store(
    kind: str,
    warm_logs: dict[str, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    store_name: Callable[[], str],
) -> None:
    """Each successor is published in the store; whatever version is served, the store has its vectors."""
    server = request.getfixturevalue("postgres" if kind == "pgvector" else "milvus")
    store = (PgVector if kind == "pgvector" else Milvus)(server.address, store_name())
    bundle, settings = tmp_path / "model", UpdateSettings(gates=LENIENT, only_new=True)
    update(config_of(warm_logs[OLD]), bundle, settings)
    Retriever(with_store(load_bundle(bundle), store, 0.9)).save(bundle)
    first = Retriever.load(bundle)
    _check_searches_its_store(bundle, store)
    second = update(config_of(warm_logs[ALL]), bundle, settings)
    assert (second.outcome, second.before) == ("published", first.version)
    assert second.gates[-1].said.startswith("The store finds")
    _check_searches_its_store(bundle, store)
    assert len(first.recommend({"user_id": 1}, k=3)) == 3  # by a service that has not switched yet
    third = update(config_of(warm_logs[ALL]), bundle, settings)
    for version in (second.version, first.version):  # the store had dropped the vectors of the first
        assert roll_back(bundle).version == version
        _check_searches_its_store(bundle, store)
    fourth = update(config_of(warm_logs[ALL]), bundle, settings)
    assert (fourth.outcome, fourth.before) == ("published", first.version)
    assert fourth.version != third.version
    _check_searches_its_store(bundle, store)
    assert len(first.recommend({"user_id": 1}, k=3)) == 3


def _check_searches_its_store(bundle: Path, store: PgVector | Milvus) -> None:
    """A bundle finds in its store what exact search finds."""
    found = Retriever.load(bundle)
    assert isinstance(found.details.store, type(store))
    assert found.details.store.name == store.name
    exact = Retriever(rebuilt(load_bundle(bundle), None, Exact(), None))
    for user in (1, 7, 20):
        answers = [one.recommend({"user_id": user}, k=5) for one in (found, exact)]
        ids, expected = ([one.id for one in answer] for answer in answers)
        assert ids == expected


def test_an_update_of_a_bundle_with_onnx_towers_writes_them(
    warm_logs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("onnxruntime")
    request.getfixturevalue("quick_exports")
    bundle, settings = tmp_path / "model", UpdateSettings(gates=LENIENT, only_new=True)
    update(config_of(warm_logs[OLD]), bundle, settings)
    Retriever(with_onnx(load_bundle(bundle))).save(bundle)
    report = update(config_of(warm_logs[ALL]), bundle, settings)
    assert report.outcome == "published"
    torch_answer, onnx_answer = (
        Retriever.load(bundle, engine=engine).recommend({"user_id": 7}, k=5) for engine in ("torch", "onnx")
    )
    assert [one.id for one in onnx_answer] == [one.id for one in torch_answer]
    assert onnx_answer.version == report.version


def test_one_update_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "model.versions").mkdir()
    (tmp_path / "model.versions" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not the kept versions of a bundle"):
        roll_back(tmp_path / "model")
    with versions_of(tmp_path / "other"), pytest.raises(ConfigError, match="keep=0"):
        update(config_of(tmp_path / "log.parquet"), tmp_path / "other", UpdateSettings(keep=0))


def toy_bundle(folder: Path, *withdrawn: int) -> str:
    """Saves a bundle without these candidates; gives its version."""
    log = groups_log(300)
    retriever = Retriever.build(toy_model().learn(log), log.candidates, seen=log).withdraw(list(withdrawn))
    retriever.save(folder)
    return retriever.version


def test_a_bundle_that_others_change_during_an_update_is_kept(tmp_path: Path) -> None:
    first = toy_bundle(tmp_path / "model")
    with versions_of(tmp_path / "model") as versions:
        changed = toy_bundle(tmp_path / "model", 3)
        new = toy_bundle(versions.folder / "candidate", 4)
        assert versions.publish(versions.folder / "candidate", 3, None) == new
        assert versions.kept == [first, changed, new]
        assert Retriever.load(versions.folder / changed).version == changed
    assert roll_back(tmp_path / "model").version == changed


def test_what_is_changed_before_a_rollback_is_kept(tmp_path: Path) -> None:
    first = toy_bundle(tmp_path / "model")
    with versions_of(tmp_path / "model") as versions:
        toy_bundle(versions.folder / "candidate", 4)
        versions.publish(versions.folder / "candidate", 3, None)
        changed = toy_bundle(tmp_path / "model", 5)
        versions.roll_back()
        assert versions.current != changed
        assert changed in versions.kept
        assert first in versions.kept


@pytest.mark.parametrize("name", ["../mine", "/mine", "", "candidate"])
def test_versions_that_lead_out_of_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "model.versions").mkdir()
    history = {"published": [{"version": name, "at": "now"}], "inputs": None}
    (tmp_path / "model.versions" / "versions.json").write_text(json.dumps(history))
    with pytest.raises(ConfigError, match="is not the kept versions of a bundle"), versions_of(tmp_path / "model"):
        pass
    assert (tmp_path / "mine").is_dir()


def found(difference: float, half_width: float | None, coverage: float = 0.5) -> WarmStartEvaluation:
    comparisons = [
        Comparison(named("all events"), "", protocol, "top_10", difference, half_width, 90, 9, None, "better")
        for protocol in ("all", "unseen")
    ]
    return WarmStartEvaluation(
        version="1",
        growth="",
        metric="top_10",
        slices=[],
        comparisons=comparisons,
        notes=[],
        coverage={"before": 0.4, "after": coverage},
    )


@pytest.mark.parametrize(
    ("difference", "half_width", "tolerance", "passed"),
    [
        (0.1, 0.05, 0, True),
        (-0.04, 0.05, 0, True),
        (-0.06, 0.05, 0, False),
        (-0.06, 0.05, 0.02, True),
        (-0.1, None, 0, False),
    ],
)
def test_a_score_passes_unless_its_interval_lies_below_zero(
    difference: float, half_width: float | None, tolerance: float, passed: bool
) -> None:
    assert score_gate(found(difference, half_width), GateSettings(tolerance=tolerance)).passed is passed


def test_coverage_may_not_collapse() -> None:
    assert coverage_gate(found(0.1, 0.1, coverage=0.21), GateSettings()).passed
    assert not coverage_gate(found(0.1, 0.1, coverage=0.19), GateSettings()).passed


def test_columns_that_move_or_empty_are_drift() -> None:
    log = log_of([(n % 20, n % 10) for n in range(400)], queries=20, candidates=10, weights=list(np.arange(400.0) + 1))
    before = input_summary(log)
    assert input_gates(before, input_summary(log, before), GateSettings())[1].passed
    high = log.take(np.arange(300, 400))
    moved = drift(before, input_summary(high, before))
    assert moved["weight"] > 1.0
    gate = input_gates(before, input_summary(high, before), GateSettings())[1]
    assert not gate.passed
    assert "weight" in gate.said
    assert input_gates(None, before, GateSettings())[0].passed
    without = log_of([(n % 20, n % 10) for n in range(400)], queries=20, candidates=10)
    assert "last update: weight" in input_gates(before, input_summary(without, before), GateSettings())[1].said


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"coverage": 1.5}, {"drift": 0.0}, {"events": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            GateSettings(**settings)
