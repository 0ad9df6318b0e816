"""Answers as benchmarks/tfrs/worker.py does, without TensorFlow: every epoch takes it 2 s, every validation 3 s."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np


def answer(stream_of_answers: IO[str], **values: Any) -> None:
    for stream, side in ((sys.stdout, "one"), (sys.stderr, "other")):
        stream.write(f"chatter on the {side} side\n")
        stream.flush()
    stream_of_answers.write(json.dumps(values) + "\n")
    stream_of_answers.flush()


def tutorial_weights(folder: Path, layers: list[int]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    rows = {"query": (len(np.load(folder / "users.npy")) + 1, 1001), "candidate": (2000, 3)}
    arrays = {}
    for side, width in (("query", 65), ("candidate", 64)):
        for number, count in enumerate(rows[side]):
            arrays[f"{side}-table-{number}"] = draw.normal(size=(count, 32)).astype(np.float32)
        for number, (inputs, outputs) in enumerate(zip([width, *layers], layers, strict=False)):
            arrays[f"{side}-matrix-{number}"] = draw.normal(size=(inputs, outputs)).astype(np.float32)
            arrays[f"{side}-bias-{number}"] = np.zeros(outputs, dtype=np.float32)
    return arrays


def encoded(folder: Path) -> dict[str, np.ndarray]:
    users, titles, events = (len(np.load(folder / f"{name}.npy")) for name in ("users", "movies", "train-timestamp"))
    return {
        "user": np.arange(users) + 1,
        "bucket": np.arange(events) % 1001,
        "time": np.zeros(events, dtype=np.float32),
        "title": np.arange(titles) + 1,
        "words": np.full((titles, 2), 2),
    }


def main() -> None:
    folder = Path(sys.argv[2])
    reply = partial(answer, os.fdopen(int(sys.argv[4]), "w"))
    layers: list[int] = []
    for line in sys.stdin:
        command = json.loads(line)
        match command["command"]:
            case "tutorial":
                layers = command["layers"]
                reply()
            case "encode":
                for name, values in encoded(folder).items():
                    np.save(folder / f"encoded-{name}.npy", values)
                reply()
            case "weights":
                np.savez(folder / "weights.npz", **tutorial_weights(folder, layers))  # type: ignore[arg-type]
                reply()
            case "steps":
                reply(losses=[7.0 * (command["stop"] - command["start"])] * command["count"])
            case "large" if command["dim"] == 13:
                reply(error="no model of that width")
            case "large" if command["dim"] == 17:
                time.sleep(600)
            case "fit":
                for epoch in range(1, command["epochs"] + 1):
                    sys.stdin.readline()
                    due = epoch % command["validate_every"] == 0
                    reply(seconds=2.0, validation_seconds=3.0 if due else 0.0, score=0.01 * epoch if due else None)
            case _:
                reply()


if __name__ == "__main__":
    main()
