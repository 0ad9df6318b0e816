"""What several processes do to one bundle at once, and what is done to one that is served, for `torture.py`."""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from twotower import Retriever, editing
from twotower.errors import SavedFolderError
from twotower.serving.served import Served

WRITERS, READERS, ADDITIONS = 2, 6, 3


@dataclass(frozen=True)
class Siege:
    """One kind of siege.

    Attributes:
        command: What it is done to, as the table says it.
        name: What is done.
        times: How often.
        run: Does it in a folder that `make_template` filled, drawing with a seed; gives what is wrong, or None.
    """

    command: str
    name: str
    times: int
    run: Callable[[Path, int], str | None]


def _writers_and_readers(root: Path, seed: int) -> str | None:
    """Each writer adds candidates to the same bundle; readers read it until all are done."""
    del seed
    shop, done = root / "shop", root / "done"
    before = set(Retriever.load(shop).candidates["item"].to_pylist())

    def write(number: int) -> None:
        for item in _items(number):
            with editing(shop) as retriever:
                retriever.add(pa.table({"item": [item]})).save(shop)

    def read(number: int) -> None:
        del number
        while not done.exists():
            Retriever.load(shop)

    writers = [_forked(write, number) for number in range(WRITERS)]
    readers = [_forked(read, number) for number in range(READERS)]
    codes = [os.waitpid(child, 0)[1] for child in writers]
    done.touch()
    codes += [os.waitpid(child, 0)[1] for child in readers]
    if any(codes):
        return f"of {WRITERS} writers and {READERS} readers some failed: {codes}"
    found = set(Retriever.load(shop).candidates["item"].to_pylist())
    expected = before | {item for number in range(WRITERS) for item in _items(number)}
    return None if found == expected else f"candidates {sorted(found)}; expected {sorted(expected)}"


def _items(writer: int) -> list[int]:
    return [100 * (writer + 1) + number for number in range(ADDITIONS)]


def _forked(work: Callable[[int], None], number: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(number)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def _truncated_while_served(root: Path, seed: int) -> str | None:
    """A file of the bundle that is served is cut in place: what is served answers on, and the rest is refused."""
    draw, shop = random.Random(seed), root / "shop"
    served = Served(shop)
    before = served.retriever().recommend({"user": 3}, 5)
    path = draw.choice(sorted(path for path in shop.rglob("*") if path.is_file()))
    os.truncate(path, draw.randrange(path.stat().st_size))
    time.sleep(0.001)
    try:
        if served.reload():
            return f"with {path.name} truncated it was swapped in"
    except SavedFolderError:
        pass
    else:
        return f"with {path.name} truncated it was not refused"
    return None if served.retriever().recommend({"user": 3}, 5) == before else "it answers otherwise"


SIEGES = (
    Siege("candidates add", f"{WRITERS} writers, {READERS} readers", 20, _writers_and_readers),
    Siege("serve", "bundle truncated in place", 100, _truncated_while_served),
)
