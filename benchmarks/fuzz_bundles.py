"""The fuzz target for bundles: changed contents under consistent manifests."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from twotower import Category, Hnsw, Retriever, Tower, TwoTower
from twotower.arrow import read_table, write_table
from twotower.data import from_tables
from twotower.errors import TwoTowerError
from twotower.features import History, Normalized
from twotower.recognition import MANIFEST
from twotower.saved import Manifest, write_manifest

CONDITION = "year > 1985 and genres contains 'war'"
CHANGE = 6
"""Bytes that encode one change: its kind, the file, the place (two bytes) and the new value (two bytes)."""

NUMBERS = (0, 1, -1, 255, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *NUMBERS, 1e308, -0.5, "", "x", "../x", None, True, [], {}, [[]], {"a": 1}, "9" * 400, 10**30, 3.5, [None], ["x"],
)  # fmt: skip


def catalogue() -> pa.Table:
    """Forty candidates with columns of every type that conditions support."""
    numbers = range(40)
    return pa.table(
        {
            "item": numbers,
            "title": [None if n % 7 == 0 else f"item {n}" for n in numbers],
            "year": [1980 + n % 20 for n in numbers],
            "price": [n * 1.5 if n % 5 else None for n in numbers],
            "shown": [n % 2 == 0 for n in numbers],
            "genres": [["war", None][: n % 3] for n in numbers],
            "sizes": [list(range(n % 4)) for n in numbers],
            "day": [dt.date(1994, 6, 1 + n % 30) for n in numbers],
            "at": pa.array([n * 10**15 for n in numbers], pa.timestamp("us")),
            "small": pa.array([n - 20 for n in numbers], pa.int8()),
            "large": pa.array([2**63 + n for n in numbers], pa.uint64()),
        }
    )


class BundleTarget:
    """A bundle with every kind of file, and the changes to make to it.

    Args:
        folder: A working folder.
    """

    def __init__(self, folder: Path) -> None:
        self.whole, self.changed = folder / "whole", folder / "changed"
        draw = np.random.default_rng(0)
        log = pa.table({"user": draw.integers(20, size=400), "item": draw.integers(40, size=400), "at": range(400)})
        data = from_tables(log, query_id="user", candidate_id="item", time="at", candidates=catalogue())
        query = Tower([Category("user", 4), History("item", "user", "at", length=3, dim=4), Normalized("at")], [4])
        model = TwoTower(query, Tower([Category("item", 4), Category("title", 4)], [4])).learn(data).eval()
        Retriever.build(model, data.candidates, seen=data, index=Hnsw(neighbours=4), parity=None).save(self.whole)
        self.names = sorted(path.relative_to(self.whole).as_posix() for path in self.whole.rglob("*") if path.is_file())

    def seeds(self) -> list[bytes]:
        """One seed per kind of change and file."""
        kinds, names = len(self.CHANGES), len(self.names)
        return [bytes([kind, name, 9, 0, kind + name, 1]) for kind in range(kinds) for name in range(names)]

    def run(self, given: bytes) -> None:
        """Makes up to four changes, rewrites the manifests, loads the bundle and queries it."""
        shutil.rmtree(self.changed, ignore_errors=True)
        shutil.copytree(self.whole, self.changed)
        details = {folder: manifest_of(self.changed / folder) for folder in ("model", ".")}
        for start in range(0, min(len(given), 4 * CHANGE), CHANGE):
            change, name, *rest = given[start : start + CHANGE].ljust(CHANGE, b"\0")
            place, by = rest[0] + 256 * rest[1], rest[2] + 256 * rest[3]
            path = self.changed / self.names[name % len(self.names)]
            kind = self.CHANGES[change % len(self.CHANGES)]
            if path.name == MANIFEST:
                manifest = details["model" if path.parent.name == "model" else "."]
                with suppress(RecursionError):  # nested too deeply already
                    with_leaf(manifest.details, place, VALUES[by % len(VALUES)])
            else:
                with suppress(*UNCHANGEABLE):
                    kind(path, place, by)
        for folder, manifest in details.items():
            (self.changed / folder / MANIFEST).unlink()
            try:
                write_manifest(
                    self.changed / folder, manifest.kind, manifest.format, manifest.library, manifest.details
                )
            except RecursionError:  # cannot be written, and thus not forged
                return
        ask(self.changed)

    CHANGES: ClassVar[list[Any]]


def manifest_of(folder: Path) -> Manifest:
    """Reads a folder's manifest."""
    return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)


def ask(folder: Path) -> None:
    """Loads a bundle and calls all its methods; only twotower's own errors may be raised."""
    with suppress(TwoTowerError):
        retriever = Retriever.load(folder)
        for call in (
            lambda: retriever.recommend({"user": 3}, 5),
            lambda: retriever.recommend({"user": 99, "history": [1, 2]}, 50, where=CONDITION),
            lambda: retriever.recommend_many([{"user": 1, "at": 5}, {"user": 2}], 3, exclude=[1], exclude_seen=False),
            lambda: retriever.similar(4, 3),
            lambda: retriever.explain({"user": 3}, 4),
        ):
            with suppress(TwoTowerError):
                call()


def flip(path: Path, place: int, by: int) -> None:
    """Changes a byte."""
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= by % 255 + 1
    path.write_bytes(raw)


def cut(path: Path, place: int, by: int) -> None:
    """Cuts off the end or the beginning."""
    raw = path.read_bytes()
    path.write_bytes(raw[: place % len(raw)] if by % 2 else raw[place % len(raw) :])


def number(path: Path, place: int, by: int) -> None:
    """Overwrites eight bytes with an integer."""
    raw = bytearray(path.read_bytes())
    place %= max(1, len(raw) - 8)
    raw[place : place + 8] = (NUMBERS[by % len(NUMBERS)] % 2**64).to_bytes(8, "little")
    path.write_bytes(raw)


def json_leaf(path: Path, place: int, by: int) -> None:
    """Changes a value in a JSON file, or in the header of a safetensors file."""
    raw = path.read_bytes()
    is_json = path.suffix == ".json"
    size = 0 if is_json else 8 + int.from_bytes(raw[:8], "little")
    content = msgspec.json.decode(raw if is_json else raw[8:size])
    with_leaf(content, place, VALUES[by % len(VALUES)])
    header = msgspec.json.encode(content)
    path.write_bytes(header if is_json else len(header).to_bytes(8, "little") + header + raw[size:])


def with_leaf(content: Any, place: int, value: Any) -> None:
    """Replaces a value, at any depth."""
    places = list(_leaves(content))
    if places:
        holder, key = places[place % len(places)]
        holder[key] = value


def _leaves(content: Any) -> Iterator[tuple[Any, Any]]:
    """Container and key of every value."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys):
        yield content, key
        yield from _leaves(content[key])


def column(path: Path, place: int, by: int) -> None:
    """Changes a column of an Arrow file: its values, type or name, or the number of rows."""
    table = read_table(path)
    at = place % table.num_columns
    name, values = table.column_names[at], table.column(at)
    changes = (
        lambda: table.set_column(at, name, pa.nulls(table.num_rows, values.type)),
        lambda: table.set_column(at, name, pa.array([str(value) for value in values.to_pylist()])),
        lambda: table.set_column(at, name, pa.array([VALUES[by % 10] % 2**31] * table.num_rows, pa.int64())),
        lambda: table.set_column(at, name, pa.array([float("nan")] * table.num_rows)),
        lambda: table.set_column(at, name, values.take(pa.array(np.arange(table.num_rows)[::-1]))),
        lambda: table.set_column(at, "", values),
        lambda: table.drop_columns([name]),
        lambda: table.append_column(name, values),
        lambda: pa.concat_tables([table, table]),
        lambda: table.slice(0, by % 3),
        lambda: table.set_column(at, name, values.cast(pa.float64())),
        lambda: table.set_column(at, name, pa.array([[value] for value in values.to_pylist()])),
    )
    write_table(changes[by % len(changes)](), path)


def tensor(path: Path, place: int, by: int) -> None:
    """Changes a tensor of a safetensors file: its values, shape, type or name."""
    tensors = load_file(path)
    name = sorted(tensors)[place % len(tensors)]
    own = tensors[name]
    changes = (
        lambda: {name: torch.full_like(own, float("nan")) if own.is_floating_point() else -own},
        lambda: {name: torch.zeros_like(own)},
        lambda: {name: own.flatten()[: by % 5].clone()},
        lambda: {name: own.double() if own.is_floating_point() else own.to(torch.int8)},
        lambda: {name: own.unsqueeze(0).contiguous()},
        lambda: {name: (own * 1e38) if own.is_floating_point() else own + 10**6},
        lambda: {f"{name}x": own},
        lambda: {name: torch.cat([own, own])},
    )
    save_file({**tensors, **changes[by % len(changes)]()}, path, _metadata(path))


def _metadata(path: Path) -> dict[str, str] | None:
    raw = path.read_bytes()
    header = msgspec.json.decode(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    found: dict[str, str] | None = header.get("__metadata__")
    return found


UNCHANGEABLE = (
    *(ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError, ZeroDivisionError),
    *(SafetensorError, TwoTowerError),
)
"""Errors of changes that do not apply to a file, or that an earlier change has made impossible."""

BundleTarget.CHANGES = [flip, cut, number, json_leaf, json_leaf, column, column, tensor]
