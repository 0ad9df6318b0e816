"""One bundle takes another's place, and a bad one does not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from twotower import Retriever
from twotower.errors import SavedFolderError
from twotower.serving.served import Served

Clients = Callable[..., Any]


def newer(bundle: Path, title: str = "brand new") -> Retriever:
    """The bundle with one candidate more, number 777, which is like number 7."""
    return Retriever.load(bundle).add(pa.table({"item": [777], "title": [title], "year": [2026], "genres": [["War"]]}))


def test_a_bundle_is_swapped_in_when_asked(bundle: Path, client_of: Clients) -> None:
    client = client_of(bundle)
    before = client.get("/v1/model").json()["version"]
    assert client.post("/v1/reload").json() == {"version": before, "changed": False}
    other = newer(bundle)
    other.save(bundle)
    assert client.post("/v1/reload").json() == {"version": other.version, "changed": True}
    assert client.get("/v1/model").json()["candidates"] == 31


@pytest.mark.parametrize("harm", ["altered", "truncated", "missing file", "no manifest", "no text", "gone"])
def test_a_bad_bundle_is_refused_and_the_one_before_goes_on(bundle: Path, client_of: Clients, harm: str) -> None:
    client = client_of(bundle)
    version = client.get("/v1/model").json()["version"]
    answers = client.post("/v1/recommend", json={"query": {"user": 3}}).json()
    path = bundle / "embeddings.safetensors"
    raw = path.read_bytes()
    if harm == "altered":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))  # in place, where the one before was read from
    elif harm == "truncated":
        path.write_bytes(raw[:100])
    elif harm == "missing file":
        path.unlink()
    elif harm == "no text":
        manifest = (bundle / "manifest.json").read_bytes()
        (bundle / "manifest.json").write_bytes(manifest.replace(b"twotower retriever", b"twotower \xffetriever"))
    elif harm == "no manifest":
        (bundle / "manifest.json").unlink()
    else:
        shutil.rmtree(bundle)
    refused = client.post("/v1/reload")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bundle_refused")
    assert str(bundle) in refused.json()["error"]["message"]
    assert client.get("/v1/model").json()["last_refused"]["reason"] == refused.json()["error"]["message"]
    assert "twotower_refused_bundles_total 1.0" in client.get("/metrics").text
    assert client.post("/v1/recommend", json={"query": {"user": 3}}).json() == answers
    assert client.get("/v2/health/ready").json() == {"status": "ready", "version": version}


def test_what_is_put_at_the_path_is_noticed(bundle: Path, client_of: Clients) -> None:
    client = client_of(bundle, watch_seconds=0.01)
    newer(bundle).save(bundle)
    wait_for(lambda: client.get("/v1/candidates?like=brand").json()["found"])
    body = {"query": {"user": 3}, "where": "year = 2026"}
    (answer,) = client.post("/v1/recommend", json=body).json()["answers"]
    assert [one["id"] for one in answer["recommendations"]] == [777]
    (bundle / "manifest.json").write_text("{")
    wait_for(lambda: client.get("/v1/model").json()["last_refused"])


def test_one_that_cannot_be_served_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SavedFolderError, match="does not exist"):
        Served(tmp_path / "nothing")


def test_no_copy_is_left_behind(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = tmp_path / "space"
    space.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(space))
    Served(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(SavedFolderError):
        Served(bundle)
    assert list(space.iterdir()) == []


def wait_for(found: Callable[[], object]) -> None:
    """Waits until there is something; a minute is far more than it takes."""
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


class PanicError(BaseException):
    """What a library's other side may raise: no `Exception`."""


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError("gone"), MemoryError("full"), PanicError("panic")])
def test_whatever_goes_wrong_is_a_refusal_and_the_watch_goes_on(bundle: Path, error: BaseException) -> None:
    failing = False

    def load(folder: Path) -> Retriever:
        if failing:
            raise error
        return Retriever.load(folder)

    served = Served(bundle, load)
    served.watch(0.01)
    failing = True
    newer(bundle).save(bundle)
    wait_until(lambda: served.last_refused is not None)
    assert served.last_refused is not None
    assert str(error) in served.last_refused.reason
    with pytest.raises(SavedFolderError, match=f"cannot be served: {type(error).__name__}: {error}"):
        served.reload()
    failing = False
    newer(bundle, "newer still").save(bundle)
    wait_until(lambda: served.swaps == 1)
    served.stop()


def test_the_watch_outlives_what_nobody_thought_of(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(bundle)
    looks: list[Path] = []

    def identity(folder: Path) -> None:
        looks.append(folder)
        raise ZeroDivisionError

    monkeypatch.setattr("twotower.serving.served.identity_of", identity)
    served.watch(0.01)
    wait_until(lambda: len(looks) > 2)
    served.stop()


def wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.01)
