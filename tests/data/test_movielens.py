from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from twotower.data import describe, movielens, split_random
from twotower.data.builtin import load
from twotower.data.movielens import EDITIONS, available, data_home, fetch
from twotower.errors import ConfigError, DataError, DataUnavailableError

FILES_100K = {
    "u.data": "1\t2\t5\t881250949\n2\t1\t3\t891717742\n1\t3\t1\t878887116\n",
    "u.item": (
        "1|Un été (1995)|01-Jan-1995||http://a|" + "|".join("1" if n in (5, 8) else "0" for n in range(19)) + "\n"
        "2|Copy (1996)|||" + "|" + "|".join(["0"] * 19) + "\n"
        "3|Copy (1996)|02-Feb-1996|||" + "|".join("1" if n == 1 else "0" for n in range(19)) + "\n"
    ),
    "u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
}
FILES_1M = {
    "ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
    "movies.dat": "661::Señor X: The Film (1996)::Animation|Children's\n1193::No Year::Drama\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}
FILES_10M = {
    "ratings.dat": "1::122::4.5::838985046\n1::185::5::838983525\n",
    "movies.dat": "122::Élan (1992)::Comedy|Romance\n185::Net, The (1995)::(no genres listed)\n",
    "tags.dat": "15::122::Excellent!::1215184630\n20::122::dull::1188263867\n21::122::excellent!::1188263867\n",
}
FILES_CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n2,3,3.5,964981247\n",
    "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
    '3,"Say ""Hi"", You (2001)",(no genres listed)\n',
    "links.csv": "movieId,imdbId,tmdbId\n1,0114709,862\n3,0113228,\n",
    "tags.csv": "userId,movieId,tag,timestamp\n2,1,Pixar,1445714994\n2,1,pixar,1445714996\n",
}
EDITIONS_HERE = {
    "100k": (FILES_100K, "latin-1", (3, 2, 3)),
    "1m": (FILES_1M, "latin-1", (2, 2, 2)),
    "10m": (FILES_10M, "utf-8", (2, 1, 2)),
    "25m": (FILES_CSV, "utf-8", (2, 2, 2)),
}


def small(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """Makes the published counts those of the small files above."""
    ratings, users, movies = EDITIONS_HERE[name][2]
    edition = msgspec.structs.replace(
        EDITIONS[name], **({"ratings": ratings, "users": users, "movies": movies, "sha256": None} | changes)
    )
    monkeypatch.setitem(EDITIONS, name, edition)


def put(home: Path, name: str, folder: str | None = None) -> Path:
    files, encoding, _ = EDITIONS_HERE[name]
    target = home / (folder or EDITIONS[name].archive)
    target.mkdir(parents=True)
    for file, content in files.items():
        (target / file).write_bytes(content.encode(encoding))
    return target


def zipped(name: str) -> bytes:
    files, encoding, _ = EDITIONS_HERE[name]
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"published-name/{file}", content.encode(encoding))
    return raw.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """GroupLens's server, as a folder."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            if keyword == "Content-Length" and (folder / "longer").exists():
                value = str(int(value) + 7)
            super().send_header(keyword, value)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setitem(fetch.__globals__, "BASE_URL", f"http://127.0.0.1:{running.server_port}")
    yield folder
    running.shutdown()
    running.server_close()


def test_100k_has_all_columns_of_all_files(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "100k")
    put(empty_home, "100k")
    data = movielens("100k", same_title="keep")
    assert data.name == "movielens-100k"
    assert data.times.tolist() == [881250949, 891717742, 878887116]  # in the order of the file
    assert data.interactions["rating"].to_pylist() == [5, 3, 1]
    assert data.queries.to_pylist()[1] == {
        "user_id": 2, "age": 53, "gender": "F", "occupation": "other", "zip_code": "T8H1N",
    }  # fmt: skip
    film = data.candidates.to_pylist()[0]
    assert film["movie_title"] == "Un été (1995)"
    assert film["year"] == 1995
    assert film["genres"] == ["Comedy", "Drama"]
    assert str(film["release_date"]) == "1995-01-01"
    assert film["video_release_date"] is None
    assert film["imdb_url"] == "http://a"
    assert "GroupLens" in data.terms


def test_movies_of_the_same_title_become_the_one_of_the_lowest_id(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "100k")
    put(empty_home, "100k")
    data = movielens("100k")
    assert data.candidates["movie_id"].to_pylist() == [1, 2]
    assert data.interactions["movie_id"].to_pylist() == [2, 1, 2]


def test_1m_decodes_occupations_and_latin_1(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "1m")
    put(empty_home, "1m")
    data = movielens("1m")
    assert data.queries["occupation"].to_pylist() == ["K-12 student", "self-employed"]
    assert data.queries["zip_code"].to_pylist() == ["48067", "70072"]
    films = {film["movie_id"]: film for film in data.candidates.to_pylist()}
    assert films[661]["movie_title"] == "Señor X: The Film (1996)"
    assert films[661]["genres"] == ["Animation", "Children's"]
    assert films[1193]["year"] is None


def test_10m_is_found_under_its_published_name_and_has_tags(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "10m")
    put(empty_home, "10m", folder="ml-10M100K")
    data = movielens("10m")
    films = {film["movie_id"]: film for film in data.candidates.to_pylist()}
    assert films[122]["movie_title"] == "Élan (1992)"
    assert films[122]["tags"] == ["dull", "excellent!"]
    assert films[185]["genres"] == []
    assert films[185]["tags"] is None
    assert data.interactions["rating"].to_pylist() == [4.5, 5.0]


def test_later_editions_have_links_and_tags(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "25m")
    put(empty_home, "25m")
    films = movielens("25m").candidates.to_pylist()
    assert films[0] == {
        "movie_id": 1, "movie_title": "Toy Story (1995)", "year": 1995, "genres": ["Adventure", "Animation"],
        "imdb_id": "0114709", "tmdb_id": "862", "tags": ["pixar"],
    }  # fmt: skip
    assert films[1]["movie_title"] == 'Say "Hi", You (2001)'
    assert films[1]["tmdb_id"] is None


def test_other_row_counts_than_published_are_refused(empty_home: Path) -> None:
    put(empty_home, "100k")
    with pytest.raises(DataError, match=r"has 3 ratings; expected 100,000, as published"):
        movielens("100k")


def test_a_broken_file_is_refused_by_name(empty_home: Path) -> None:
    (put(empty_home, "100k") / "u.data").write_text("1\tx\t5\t1\n")
    with pytest.raises(DataError, match=r"u\.data cannot be read as MovieLens publishes it"):
        movielens("100k")


def test_what_is_not_here_is_downloaded_checked_and_unpacked(
    server: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = zipped("100k")
    (server / "ml-100k.zip").write_bytes(raw)
    small(monkeypatch, "100k", sha256=hashlib.sha256(raw).hexdigest())
    assert len(movielens("100k")) == 3
    assert [path.name for path in empty_home.iterdir()] == ["ml-100k"]
    (server / "ml-100k.zip").unlink()
    assert len(movielens("100k")) == 3  # from here, this time


def test_an_archive_put_here_by_hand_is_unpacked(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "100k")
    empty_home.mkdir()
    (empty_home / "ml-100k.zip").write_bytes(zipped("100k"))
    assert fetch("100k") == empty_home / "ml-100k"
    assert len(movielens("100k")) == 3


@pytest.mark.parametrize("trouble", ["not there", "truncated", "altered", "no zip", "leads out"])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    trouble: str, server: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = zipped("100k")
    sha256 = hashlib.sha256(raw).hexdigest() if trouble == "altered" else None
    small(monkeypatch, "100k", sha256=sha256)
    if trouble == "leads out":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("ml-100k/../../escaped", "x")
        raw = buffer.getvalue()
    elif trouble == "no zip":
        raw = b"<html>no such thing</html>"
    elif trouble == "altered":
        raw = raw[:-1] + b"?"
    elif trouble == "truncated":
        (server / "longer").touch()
    if trouble != "not there":
        (server / "ml-100k.zip").write_bytes(raw)
    with pytest.raises(DataUnavailableError) as caught:
        movielens("100k")
    if trouble in ("not there", "truncated", "altered"):
        message = str(caught.value)
        assert "/ml-100k.zip" in message
        assert str(empty_home) in message
        assert "twotower study simulated" in message
    assert list(empty_home.iterdir()) == []
    assert not (empty_home.parent / "escaped").exists()


def test_no_network_is_said_with_url_folder_and_alternative(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch.__globals__, "BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(
        DataUnavailableError, match=r"ml-1m does not exist, and http://127.0.0.1:9/ml-1m.zip could not be"
    ) as caught:
        movielens("1m")
    assert "simulated()" in str(caught.value)


def test_available_says_what_is_on_this_machine(empty_home: Path) -> None:
    put(empty_home, "1m")
    found = {edition.edition: edition.folder for edition in available()}
    assert found.pop("1m") == str(empty_home / "ml-1m")
    assert set(found.values()) == {None}
    assert data_home() == empty_home


def test_unknown_names_are_refused(empty_home: Path) -> None:
    with pytest.raises(ConfigError, match="edition '2m' is unknown; expected one of 100k, 1m"):
        movielens("2m")
    with pytest.raises(ConfigError, match="'movie-lens' is unknown"):
        load("movie-lens")


@pytest.mark.movielens
class TestReal:
    @pytest.fixture(autouse=True)
    def _home(self, movielens_home: Path) -> None:
        """Skips where the data is not."""

    def test_it_is_what_was_published(self) -> None:
        data = movielens("100k")
        found = describe(data)
        assert (found.interactions, found.queries, found.candidates) == (100_000, 943, 1_664)
        pairs = set(zip(data.query_index.tolist(), data.candidate_index.tolist(), strict=True))
        assert found.repeated == 100_000 - len(pairs)
        assert movielens("100k", same_title="keep").candidates.num_rows == 1_682
        assert data.candidates["movie_title"][0].as_py() == "Toy Story (1995)"
        assert data.queries["age"].to_pylist()[:3] == [24, 53, 23]

    def test_the_split_of_the_reference_has_this_fingerprint(self) -> None:
        assert split_random(movielens("100k"), 0.2, 42).fingerprint == "a05334fea2fd"
