"""Fuzzes one target in this process until libFuzzer ends it, or runs a single input; started by `fuzz.py`.

python benchmarks/fuzz_worker.py conditions INPUT    # runs one input and shows its error
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import atheris

with atheris.instrument_imports(include=["twotower"]):
    from fuzz_targets import TARGETS, Target

SLOW_SECONDS = 5.0
"""An input that takes more CPU time is a finding."""

NOTES_INTERVAL = 2.0
"""Seconds between writes of the notes."""

WARM_UP_INPUTS = 1000
"""Inputs after which memory should no longer grow."""


class Notes:
    """Progress and findings so far, written to `notes.json` in a folder, with the inputs of findings beside it.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs, self.noted = 0, 0.0
        self.warm_bytes: int | None = None
        self.findings: dict[str, dict[str, Any]] = {}

    def watching(self, run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Wraps a target so that each distinct error is recorded once and does not end the run."""

        def one(given: bytes) -> None:
            started = time.process_time()
            try:
                run(given)
            except Exception as error:
                self.found(where_of(error), given, "".join(traceback.format_exception(error)[-12:]))
            if (seconds := time.process_time() - started) > SLOW_SECONDS:
                self.found("slow", given, f"{seconds:.1f} seconds")
            self.inputs += 1
            if self.inputs == WARM_UP_INPUTS:
                self.warm_bytes = resident()
            if time.perf_counter() - self.noted > NOTES_INTERVAL:
                self.note()

        return one

    def found(self, what: str, given: bytes, said: str) -> None:
        """Keeps the first input of each finding."""
        if what not in self.findings:
            name = f"input-{hashlib.sha256(given).hexdigest()[:12]}"
            (self.folder / name).write_bytes(given)
            self.findings[what] = {"input": name, "said": said}
            self.note()

    def note(self) -> None:
        """Writes the notes; libFuzzer ends the process without warning."""
        self.noted = time.perf_counter()
        grown = 0 if self.warm_bytes is None else resident() - self.warm_bytes
        content = {"inputs": self.inputs, "grown": grown, "findings": self.findings}
        building = self.folder / "notes.json.new"
        building.write_text(json.dumps(content), encoding="utf-8")
        building.replace(self.folder / "notes.json")


def where_of(error: BaseException) -> str:
    """An error's class and the last line of twotower in its traceback, which identify a finding."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/twotower/" in frame.filename]
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
    return f"{type(error).__name__} at {last}"


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def prepared(target: Target, folder: Path) -> list[str]:
    """Writes the seed corpus and the dictionary, and returns libFuzzer's arguments for them."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, given in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(given)
    flags = [f"-max_len={target.largest}", str(corpus)]
    if target.words:  # libFuzzer rejects an empty dictionary
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        (folder / "words").write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
        flags.insert(0, f"-dict={folder / 'words'}")
    return flags


def main() -> None:
    """Fuzzes the target, or runs one input."""
    name, where, *flags = sys.argv[1:]
    warnings.simplefilter("ignore")
    folder = Path(where)
    if folder.is_file():
        with TemporaryDirectory(prefix="fuzz-") as work:
            TARGETS[name](Path(work)).run(folder.read_bytes())
        return
    (folder / "work").mkdir()
    target = TARGETS[name](folder / "work")
    atheris.Setup([sys.argv[0], *flags, *prepared(target, folder)], Notes(folder).watching(target.run))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
