"""Builds the wheel and the sdist, and tests both in clean environments; run by `make dist` and by CI.

python scripts/check_dist.py                  builds, checks metadata, installs each and runs a study
python scripts/check_dist.py --extras ann     also installs this extra by itself and tests it; `all` for all extras
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
SMALL = "simulated:60,40,1500"
TRAINED = """
[data.simulated]
queries = 60
candidates = 40
interactions = 1500
[model]
layers = [8]
dim = 8
[training]
epochs = 1
"""
STREAMED = """
import pyarrow.parquet as pq, twotower as tt
pq.write_table(tt.data.simulated(60, 40, 1500).interactions, "log.parquet")
"""
SERVED = """
import re, subprocess, sys, urllib.request
served = subprocess.Popen(
    [sys.executable, "-m", "twotower", "serve", "model", "--port", "0"], stderr=subprocess.PIPE, text=True
)
try:
    address = re.search("http://[^ ]+", served.stderr.readline())[0]
    assert b"<title>" in urllib.request.urlopen(address, timeout=30).read()
finally:
    served.terminate()
    served.wait()
"""
LOGGED = """
import twotower as tt
data = tt.data.simulated(60, 40, 1500)
model = tt.TwoTower(tt.Tower([tt.Category("user_id", 8)]), tt.Tower([tt.Category("movie_id", 8)]))
tt.Trainer(epochs=1).fit(model, data, callbacks=[tt.{logger}])
"""
ENCODES = """
from twotower.features.pretrained import make_encoder
sizes = "hidden_size intermediate_size vocab_size num_hidden_layers num_attention_heads".split()
config = ", ".join(f'"{name}": 8' for name in sizes)
assert make_encoder('{"model_type": "bert", ' + config + "}").size == 8
"""
UNREACHED = """
import twotower as tt
from twotower.errors import StoreUnavailableError
from twotower.retrieval.publishing import store_at, with_store
try:
    with_store(tt.Retriever.load("model").bundle, store_at("postgresql://127.0.0.1:1/none", None), 0.9)
except StoreUnavailableError:
    pass
else:
    raise AssertionError("a database that does not exist has answered")
"""

BASE = [["--version"], ["study", SMALL, "--layers", "8", "--epochs", "1", "--baselines", "popularity", "--out", "s"]]
"""Commands that need no extra."""

Command = list[str] | str
USES: dict[str, list[Command]] = {
    "ann": [["bundle", "model", "--out", "hnsw", "--index", "hnsw", "--parity", "0"]],
    "baselines": [["evaluate", "model", "--baselines", "ials"]],
    "docs": ["import mkdocs, material, mkdocstrings"],
    "large": [STREAMED, ["prepare", "streamed.toml"]],
    "milvus": [["bundle", "model", "--out", "stored", "--store", "./candidates.db", "--parity", "0"]],
    "mlflow": [LOGGED.format(logger="MLflow(uri='sqlite:///mlflow.db')")],
    "onnx": [["bundle", "model", "--out", "exported", "--onnx"]],
    "pgvector": [UNREACHED],
    "serve": [SERVED],
    "tensorboard": [LOGGED.format(logger="TensorBoard('logs')")],
    "text": [ENCODES],
    "tune": [["tune", "small.toml", "--trials", "1", "--baselines", "popularity", "--out", "tuning"]],
    "wandb": [LOGGED.format(logger="WandB(mode='offline')")],
}
"""Tests of each extra: twotower commands or Python programs, run in a folder with a trained `model`."""


def main() -> None:
    """Runs the checks given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=[], metavar="EXTRA", help="'all', or names of extras")
    parser.add_argument("--built", type=Path, help="a folder with a wheel and an sdist, instead of building them")
    options = parser.parse_args()
    extras = list(USES) if options.extras == ["all"] else options.extras
    if unknown := set(extras) - USES.keys():
        parser.error(f"no extra {', '.join(sorted(unknown))}; expected all, or some of {', '.join(USES)}")
    wheel, sdist = built(options.built)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        base = clean_environment(place / "base", [str(wheel)])
        try_base(base, place / "from-wheel")
        if not extras:
            try_base(clean_environment(place / "sdist", [str(sdist)]), place / "from-sdist")
        for extra in extras:
            try_extra(extra, wheel, base, place)
    say("all checks passed")


def built(folder: Path | None) -> tuple[Path, Path]:
    """Builds the wheel and the sdist into `dist/` and checks their metadata, unless a folder with both is given."""
    if folder is None:
        folder = ROOT / "dist"
        shutil.rmtree(folder, ignore_errors=True)
        say("building the wheel and the sdist")
        run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])
        run([sys.executable, "-m", "twine", "check", "--strict", *map(str, folder.iterdir())])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel.resolve(), sdist.resolve()


def clean_environment(folder: Path, requirements: Sequence[str], below: Path | None = None) -> Path:
    """Creates a virtual environment with these packages and returns its interpreter.

    Args:
        folder: The folder of the environment.
        requirements: Requirements for pip.
        below: The interpreter of another environment whose packages are also visible.
    """
    say(f"installing {', '.join(requirements)}")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if below is not None:
        packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
        shared = sysconfig.get_path("purelib", vars={"base": str(below.parents[1])})
        (Path(packages) / "base.pth").write_text(shared)
    run([str(python), "-m", "pip", "install", "--constraint", str(CONSTRAINTS), *requirements])
    run([str(python), "-m", "pip", "check"])
    return python


def try_base(python: Path, folder: Path) -> None:
    """Runs commands that need no extra."""
    folder.mkdir()
    for command in BASE:
        run([str(python), "-m", "twotower", *command], folder)


def try_extra(extra: str, wheel: Path, base: Path, place: Path) -> None:
    """Installs the wheel with one extra, and runs the extra's tests."""
    python = clean_environment(place / extra, [f"twotower[{extra}] @ {wheel.as_uri()}"], below=base)
    folder = place / f"with-{extra}"
    folder.mkdir()
    (folder / "small.toml").write_text(TRAINED)
    streamed = '[data]\nstream = true\ninteractions = "log.parquet"\nquery_id = "user_id"\n'
    (folder / "streamed.toml").write_text(f'{streamed}candidate_id = "movie_id"\ntime = "timestamp"\n')
    train = ["train", "small.toml", "--out", "model", "--baselines", "popularity"]
    for command in (train, *USES[extra]):
        words = ["-c", command] if isinstance(command, str) else ["-m", "twotower", *command]
        run([str(python), *words], folder)


def run(command: list[str], folder: Path | None = None) -> None:
    """Runs a command; if it fails, exits with its output.

    The command sees only the packages of its own environment.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")


def say(text: str) -> None:
    """Prints a progress message immediately."""
    print(f"check_dist: {text}", flush=True)


def declared_extras() -> set[str]:
    """The extras of pyproject.toml except `dev`."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return set(declared) - {"dev"}


if __name__ == "__main__":
    main()
