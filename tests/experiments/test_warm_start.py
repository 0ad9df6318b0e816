"""A training that goes on from a bundle: by new events alone or by all, and what it says has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from twotower import Category, Retriever
from twotower.errors import ConfigError, DataError
from twotower.experiments.start import Before
from twotower.experiments.train import TrainedBundle, train
from twotower.features.recorded import Recorded
from twotower.model import load_model
from twotower.model.tower_module import features_of
from twotower.recipes.parts import SplitConfig
from twotower.retrieval.continued import moments_of
from twotower.training import Moments
from warm_fixtures import ALL, NEW, OLD, config_of

pytestmark = pytest.mark.usefixtures("no_pool")


@pytest.fixture(scope="module")
def bundles(
    warm_logs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, TrainedBundle]]:
    """The first bundle, and those that went on from it."""
    folder = tmp_path_factory.mktemp("bundles")
    trained = {OLD: train(config_of(warm_logs[OLD]), folder / OLD)}
    for name in (NEW, ALL):
        trained[name] = train(config_of(warm_logs[name]), folder / name, before=Before(folder / OLD))
    return folder, trained


def movies_of(bundle: Path) -> pa.Array:
    """The movies that a bundle's candidate tower has rows of."""
    ids = load_model(bundle / "model").candidate.features[0]
    assert isinstance(ids, Category)
    assert ids.vocabulary is not None
    return ids.vocabulary


def events_of(retriever: Retriever) -> int:
    """In the record that its features read."""
    recorded = next(one for one in features_of(retriever.model.query) if isinstance(one, Recorded))
    assert recorded.record is not None
    return len(recorded.record.times)


def test_known_ids_keep_their_places_and_new_ones_have_rows(bundles: tuple[Path, dict[str, TrainedBundle]]) -> None:
    folder, trained = bundles
    before = movies_of(folder / OLD)
    for name in (NEW, ALL):
        after = movies_of(folder / name)
        assert after[: len(before)].equals(before)
        assert len(after) > len(before)
        assert trained[name].retriever.details.notes.started_from == trained[OLD].retriever.version


def test_the_bundle_of_new_events_alone_knows_what_was_before(
    bundles: tuple[Path, dict[str, TrainedBundle]], warm_logs: dict[str, Path]
) -> None:
    """Its users, movies, seen lists and popularity are those of all events; so is the record that histories read."""
    folder, _ = bundles
    alone, whole, old = (Retriever.load(folder / name) for name in (NEW, ALL, OLD))
    log = pq.read_table(warm_logs[NEW])
    train_end = int(np.sort(log["timestamp"].to_numpy())[: round(0.8 * log.num_rows)][-1])
    learned = log.filter(pc.less_equal(log["timestamp"], train_end))
    for user in (1, 7, 20):
        row = alone.queries["user_id"].index(user).as_py()
        seen = set(alone.candidates["movie_id"].take(pa.array(alone.seen.by(row))).to_pylist())
        own = set(learned.filter(pc.equal(learned["user_id"], user))["movie_id"].to_pylist())
        place = old.queries["user_id"].index(user).as_py()
        earlier = set() if place < 0 else set(old.candidates["movie_id"].take(pa.array(old.seen.by(place))).to_pylist())
        assert seen == own | earlier
    assert alone.bundle.popularity.sum() == old.bundle.popularity.sum() + learned.num_rows
    assert events_of(alone) == events_of(old) + learned.num_rows
    assert set(whole.queries["user_id"].to_pylist()) == set(alone.queries["user_id"].to_pylist())


def test_the_report_compares_old_and_new_on_the_same_events(bundles: tuple[Path, dict[str, TrainedBundle]]) -> None:
    folder, trained = bundles
    for name in (NEW, ALL):
        found = trained[name].evaluation.warm_start
        assert found is not None
        assert found.version == trained[OLD].retriever.version
        parts = {part.name: part for part in found.slices}
        events = parts["all events"].events
        assert parts["known candidates"].events + parts["new candidates"].events == events
        assert parts["known queries"].events + parts["new queries"].events == events
        assert parts["new candidates"].events > 0
        for side in ("queries", "candidates"):
            for protocol in ("all", "unseen"):
                halves = [parts[f"{which} {side}"] for which in ("known", "new") if f"{which} {side}" in parts]
                mean = sum(part.events * part.after[protocol] for part in halves) / events
                assert mean == pytest.approx(parts["all events"].after[protocol])
        assert parts["all events"].after["all"] == pytest.approx(trained[name].evaluation.model.all[found.metric])
        said = str(trained[name].evaluation)
        assert "known candidates" in said
        assert "New: " in said
        kept = Retriever.load(folder / name).details.notes.evaluation
        assert kept is not None
        assert kept.warm_start == found


def test_what_the_optimiser_knows_lies_beside_the_bundle_and_is_carried_over(
    bundles: tuple[Path, dict[str, TrainedBundle]], warm_logs: dict[str, Path], tmp_path: Path
) -> None:
    folder, trained = bundles
    steps = {}
    for name in (OLD, NEW):
        moments = Moments.load(moments_of(folder / name))
        assert moments.towers == trained[name].retriever.details.towers
        steps[name] = moments.tensors["candidate.features.0.table"]["step"].item()
    assert steps[NEW] > steps[OLD]
    shutil.copytree(folder / OLD, tmp_path / OLD)  # without what lies beside it
    train(config_of(warm_logs[NEW]), tmp_path / OLD, before=Before(tmp_path / OLD))  # which may be replaced
    assert Moments.load(moments_of(tmp_path / OLD)).tensors["candidate.features.0.table"]["step"].item() < steps[NEW]


def test_a_warm_start_has_a_fifth_of_the_recipes_rate_unless_the_config_names_one(
    bundles: tuple[Path, dict[str, TrainedBundle]], warm_logs: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = bundles

    def rate_of(bundle: Path) -> float:
        optimizer = Moments.load(moments_of(bundle)).optimizer
        assert optimizer is not None
        return optimizer.learning_rate

    full = rate_of(folder / OLD)
    assert rate_of(folder / NEW) == rate_of(folder / ALL) == pytest.approx(full / 5)
    for training, expected in (
        ({"optimizer": {"learning_rate": 0.003}}, 0.003),
        ({"optimizer": {"weight_decay": 0.0}}, full / 5),
    ):
        train(config_of(warm_logs[NEW], training), tmp_path / "next", before=Before(folder / OLD))
        assert rate_of(tmp_path / "next") == pytest.approx(expected)
    train(config_of(warm_logs[NEW]), tmp_path / "again", before=Before(folder / NEW))
    assert rate_of(tmp_path / "again") == pytest.approx(full / 5)  # not a fifth of a fifth
    train(config_of(warm_logs[ALL]), tmp_path / "fresh", before=Before(folder / OLD, fresh=True))
    assert rate_of(tmp_path / "fresh") == full


def test_a_warm_start_searches_neither_a_model_nor_a_schedule(
    bundles: tuple[Path, dict[str, TrainedBundle]], warm_logs: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = bundles
    config = config_of(warm_logs[NEW])
    model = msgspec.structs.replace(config.model, read_id=None)
    config = msgspec.structs.replace(config, training={}, model=model)
    trained = train(config, tmp_path / "next", before=Before(folder / OLD))
    assert not [one for one in trained.retriever.details.notes.remarks if "validation part" in one]


def test_what_a_warm_start_cannot_go_on_from_is_refused(
    bundles: tuple[Path, dict[str, TrainedBundle]], warm_logs: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = bundles
    config = config_of(warm_logs[ALL])
    for other, message in (
        (msgspec.structs.replace(config, split=SplitConfig("random:0.2")), "are earlier than the last one that"),
        (config_of(warm_logs[ALL], norm="layer"), r"\[model\] norm = 'layer', and .* was trained with 'none'"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(other, tmp_path / "bundle", before=Before(folder / OLD))
    with pytest.raises(ConfigError, match="retire_after=0"):
        train(config, tmp_path / "bundle", before=Before(folder / OLD, retire_after=0.0))
    with pytest.raises(ConfigError, match=r"begins after the last event .* expects all events"):
        train(config_of(warm_logs[NEW]), tmp_path / "bundle", before=Before(folder / OLD, fresh=True))
    table = pq.read_table(warm_logs[NEW])
    text = table.set_column(0, "user_id", table["user_id"].cast(pa.string()))
    pq.write_table(text, tmp_path / "text.parquet")
    with pytest.raises(DataError, match="'user_id' is string in the data, and int64 in the bundle"):
        train(config_of(tmp_path / "text.parquet"), tmp_path / "bundle", before=Before(folder / OLD))
    assert not (tmp_path / "bundle").exists()
