"""Runs TensorFlow Recommenders in a separate process that works only on request, so that both libraries alternate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.errors import TwoTowerError

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-tfrs" / "bin" / "python"
"""The interpreter of the environment that `make bench-tfrs` creates."""

WORKER = Path(__file__).with_name("worker.py")
LOG = "said.txt"
TERMINATE_SECONDS = 10.0
"""Seconds that the process has to terminate before it is killed."""


class TheirEpoch(msgspec.Struct, frozen=True):
    """One epoch of TensorFlow Recommenders.

    Attributes:
        seconds: Training time.
        validation_seconds: Validation time; close to 0 without validation.
        score: Top-100 accuracy on test; None without validation.
    """

    seconds: float
    validation_seconds: float
    score: float | None


class Tfrs:
    """The process, as a context manager that always ends it, even on SIGTERM.

    Args:
        python: The interpreter of an environment with TensorFlow Recommenders.
        threads: Number of TensorFlow threads.

    Raises:
        TwoTowerError: The interpreter does not exist; or, from any method, the process failed: with its last output.
    """

    def __init__(self, python: Path, threads: int) -> None:
        if not python.exists():
            raise TwoTowerError(
                f"{python} does not exist; expected the Python of an environment with TensorFlow Recommenders, "
                f"which `make bench-tfrs` creates in .venv-tfrs"
            )
        self.python, self.threads = python, threads

    def __enter__(self) -> Tfrs:
        self._handler = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        self._folder = tempfile.TemporaryDirectory(prefix="tfrs-")
        self.folder = Path(self._folder.name)
        self._log: IO[bytes] = (self.folder / LOG).open("wb")
        ours, theirs = os.pipe()
        command = [str(self.python), str(WORKER), str(self.folder), "--answers", str(theirs)]
        self._process = subprocess.Popen(
            [*command, "--threads", str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
            env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""},
        )
        os.close(theirs)
        self._answers = os.fdopen(ours, encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended before it read a command
            self._process.stdin.close()
        self._log.close()
        self._folder.cleanup()
        signal.signal(signal.SIGTERM, self._handler)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Runs a command of `worker.py` and returns its answer."""
        self._tell(command=command, **arguments)
        return self._answer()

    def epochs(self, count: int, validate_every: int) -> Iterator[TheirEpoch]:
        """Trains `count` epochs in one call of `fit`, each when the iterator is advanced."""
        self._tell(command="fit", epochs=count, validate_every=validate_every)
        for _ in range(count):
            self._tell()
            yield msgspec.convert(self._answer(), TheirEpoch)

    def give(self, name: str, values: npt.NDArray[Any]) -> None:
        """Writes an array to the shared folder."""
        np.save(self.folder / f"{name}.npy", values)

    def taken(self, name: str) -> npt.NDArray[Any]:
        """Reads an array that the process wrote to the shared folder."""
        array: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy")
        return array

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of its model, with the names of `worker.py`."""
        self.ask("weights")
        with np.load(self.folder / "weights.npz") as arrays:
            return dict(arrays)

    def _tell(self, **values: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(values) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("it exited") from error

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise self._failure("it exited")
        answer = msgspec.json.decode(line, type=dict[str, Any])
        if "error" in answer:
            raise self._failure(answer["error"])
        return answer

    def _failure(self, what: str) -> TwoTowerError:
        said = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-20:]
        return TwoTowerError("\n".join([f"TensorFlow Recommenders' process failed: {what}", *said]))
