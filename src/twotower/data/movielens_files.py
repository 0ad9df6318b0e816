"""The file formats of MovieLens: u.* of 100k, *.dat of 1m and 10m, *.csv of the later editions."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from twotower.errors import DataError

GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)

OCCUPATIONS_1M = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
"""Meaning of the occupation codes in users.dat of 1m, in order, from its README."""

NO_GENRES = "(no genres listed)"


class Tables(NamedTuple):
    """The tables of an edition; users only if it has data about them."""

    ratings: pa.Table
    movies: pa.Table
    users: pa.Table | None


def read_100k(folder: Path) -> Tables:
    """Reads u.data, u.item and u.user: separated by tabs or bars, latin-1."""
    ratings = _read(
        folder / "u.data",
        {"user_id": pa.int64(), "movie_id": pa.int64(), "rating": pa.int8(), "timestamp": pa.int64()},
        delimiter="\t",
    )
    text = dict.fromkeys(("movie_title", "release_date", "video_release_date", "imdb_url"), pa.string())
    flags = dict.fromkeys(GENRES_100K, pa.int8())
    movies = _read(folder / "u.item", {"movie_id": pa.int64(), **text, **flags}, delimiter="|", encoding="latin-1")
    chosen = np.stack([movies[genre].to_numpy() for genre in GENRES_100K], axis=1).astype(bool)
    genres = pa.array([[g for g, flag in zip(GENRES_100K, row, strict=True) if flag] for row in chosen.tolist()])
    dates = {name: _dates_100k(movies[name]) for name in ("release_date", "video_release_date")}
    users = _read(
        folder / "u.user",
        {
            "user_id": pa.int64(),
            "age": pa.int64(),
            "gender": pa.string(),
            "occupation": pa.string(),
            "zip_code": pa.string(),
        },
        delimiter="|",
        encoding="latin-1",
    )
    columns = {
        "movie_id": movies["movie_id"],
        "movie_title": movies["movie_title"],
        "year": _years(movies["movie_title"]),
        "genres": genres,
        **dates,
        "imdb_url": _nullified(movies["imdb_url"]),
    }
    return Tables(ratings, pa.table(columns), users)


def read_dat(folder: Path) -> Tables:
    """Reads ratings.dat, movies.dat and, in 1m, users.dat: separated by `::`; 1m is latin-1, 10m UTF-8."""
    has_users = (folder / "users.dat").is_file()
    encoding = "latin-1" if has_users else "utf8"
    ratings = _read(
        folder / "ratings.dat",
        {"user_id": pa.int64(), "movie_id": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()},
        delimiter="::",
    )
    movies = _read(
        folder / "movies.dat",
        {"movie_id": pa.int64(), "movie_title": pa.string(), "genres": pa.string()},
        delimiter="::",
        encoding=encoding,
    )
    users = None
    if has_users:
        users = _read(
            folder / "users.dat",
            {
                "user_id": pa.int64(),
                "gender": pa.string(),
                "age": pa.int64(),
                "occupation": pa.int64(),
                "zip_code": pa.string(),
            },
            delimiter="::",
        )
        named = pa.array(OCCUPATIONS_1M).take(users["occupation"].combine_chunks())
        users = users.set_column(users.column_names.index("occupation"), "occupation", named)
    tags = None
    if (folder / "tags.dat").is_file():
        tags = _read(
            folder / "tags.dat",
            {"user_id": pa.int64(), "movie_id": pa.int64(), "tag": pa.string(), "timestamp": pa.int64()},
            delimiter="::",
            encoding=encoding,
        )
    return Tables(ratings, _with_tags(_with_genres(movies), tags), users)


def read_csv(folder: Path) -> Tables:
    """Reads ratings.csv, movies.csv, links.csv and tags.csv: with headers and quotes, UTF-8."""
    ratings = _read_with_header(
        folder / "ratings.csv",
        {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()},
    ).rename_columns(["user_id", "movie_id", "rating", "timestamp"])
    movies = _with_genres(
        _read_with_header(
            folder / "movies.csv", {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()}
        ).rename_columns(["movie_id", "movie_title", "genres"])
    )
    if (folder / "links.csv").is_file():
        links = _read_with_header(
            folder / "links.csv", {"movieId": pa.int64(), "imdbId": pa.string(), "tmdbId": pa.string()}
        ).rename_columns(["movie_id", "imdb_id", "tmdb_id"])
        place = pc.index_in(movies["movie_id"], value_set=links["movie_id"].combine_chunks())
        for name in ("imdb_id", "tmdb_id"):
            movies = movies.append_column(name, _nullified(links[name].take(place)))
    tags = None
    if (folder / "tags.csv").is_file():
        tags = _read_with_header(
            folder / "tags.csv",
            {"userId": pa.int64(), "movieId": pa.int64(), "tag": pa.string(), "timestamp": pa.int64()},
        ).rename_columns(["user_id", "movie_id", "tag", "timestamp"])
    return Tables(ratings, _with_tags(movies, tags), None)


READERS: dict[str, Callable[[Path], Tables]] = {"100k": read_100k, "dat": read_dat, "csv": read_csv}


def _read(path: Path, columns: dict[str, pa.DataType], *, delimiter: str, encoding: str = "utf8") -> pa.Table:
    """Reads a file without a header and without quotes."""
    source: Any = str(path)
    if delimiter == "::":  # Arrow splits at single characters only; no title contains a tab
        source = io.BytesIO(_bytes(path).replace(b"::", b"\t"))
        delimiter = "\t"
    return _parsed(
        source,
        path,
        pa.csv.ReadOptions(column_names=list(columns), encoding=encoding),
        pa.csv.ParseOptions(delimiter=delimiter, quote_char=False),
        pa.csv.ConvertOptions(column_types=columns),
    )


def _read_with_header(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    return _parsed(
        str(path),
        path,
        pa.csv.ReadOptions(),
        pa.csv.ParseOptions(newlines_in_values=True),
        pa.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
    )


def _parsed(
    source: Any,
    path: Path,
    reading: pa.csv.ReadOptions,
    parsing: pa.csv.ParseOptions,
    converting: pa.csv.ConvertOptions,
) -> pa.Table:
    try:
        return pa.csv.read_csv(source, reading, parsing, converting)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DataError(f"{path} cannot be read as MovieLens publishes it: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read as MovieLens publishes it: {error}") from error


def _years(titles: pa.ChunkedArray) -> pa.ChunkedArray:
    """The last year in parentheses in each title; null if there is none."""
    found = pc.extract_regex(titles, r".*\((?P<year>\d{4})\)")
    return pc.struct_field(found, "year").cast(pa.int64())


def _dates_100k(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates such as 01-Jan-1995; null where empty."""
    return pc.strptime(_nullified(column), format="%d-%b-%Y", unit="s").cast(pa.date32())


def _nullified(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), None, column)


def _with_genres(movies: pa.Table) -> pa.Table:
    """Splits the genres, which are separated by bars, into lists, and adds the year of the title."""
    listed = pc.if_else(pc.is_in(movies["genres"], pa.array([NO_GENRES, ""])), None, movies["genres"])
    split = pc.split_pattern(listed, "|")
    empty: Sequence[str] = []
    genres = pc.fill_null(split, pa.scalar(empty, pa.list_(pa.string())))
    titles = movies["movie_title"]
    return pa.table({"movie_id": movies["movie_id"], "movie_title": titles, "year": _years(titles), "genres": genres})


def _with_tags(movies: pa.Table, tags: pa.Table | None) -> pa.Table:
    """Adds the distinct tags of each movie, lowercased and sorted."""
    if tags is None:
        return movies
    plain = pa.table({"movie_id": tags["movie_id"], "tag": pc.utf8_lower(tags["tag"])}).group_by(["movie_id", "tag"])
    pairs = plain.aggregate([]).sort_by([("movie_id", "ascending"), ("tag", "ascending")])
    by_movie = pairs.group_by("movie_id", use_threads=False).aggregate([("tag", "list")])
    place = pc.index_in(movies["movie_id"], value_set=by_movie["movie_id"].combine_chunks())
    return movies.append_column("tags", by_movie["tag_list"].take(place))
