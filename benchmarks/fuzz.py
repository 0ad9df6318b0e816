"""Coverage-guided fuzzing of untrusted and user input: bundles, conditions, requests, configs, logs.

    make fuzz MINUTES=2                               # all targets
    python benchmarks/fuzz.py --minutes 10 --only csv # one target

Needs atheris (`pip install atheris==3.0.0`; Linux). Inputs may raise only twotower's own errors. An input that raises
another one, takes more than five seconds of CPU time, or makes the process crash or run out of memory is a finding: it
is saved in `fuzz-findings`, and the command fails and prints how to run it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS
from measuring import RESULTS, write_report
from rich.console import Console
from rich.table import Table

from twotower.errors import MissingExtraError

WORKER = Path(__file__).with_name("fuzz_worker.py")
TIMEOUT = 60
"""Seconds after which libFuzzer aborts an input that does not return."""

MEMORY = 4096
"""Memory limit of a process, in megabytes."""

ALLOWED_GROWTH = 256 << 20
"""Bytes by which memory may grow after the warm-up, since caches fill up."""

STDERR_LINES = 30
"""Last lines of a crashed process's standard error to keep."""


def fuzzed(name: str, minutes: float, seed: int, kept: Path) -> dict[str, Any]:
    """Fuzzes one target, starting only from its seeds."""
    shared = Path("/dev/shm")  # in memory, if available
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if shared.is_dir() else None) as temporary:
        folder = Path(temporary)
        flags = [
            f"-max_total_time={round(60 * minutes)}",
            f"-seed={seed}",
            f"-timeout={TIMEOUT}",
            f"-rss_limit_mb={MEMORY}",
            f"-artifact_prefix={folder}/input-",
        ]
        started = time.perf_counter()
        command = [sys.executable, str(WORKER), name, str(folder), *flags]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        seconds = time.perf_counter() - started
        notes = json.loads((folder / "notes.json").read_bytes()) if (folder / "notes.json").exists() else {}
        findings = dict(notes.get("findings", {}))
        crashes = [path.name for kind in ("crash", "timeout", "oom") for path in folder.glob(f"input-{kind}-*")]
        if done.returncode or crashes:
            said = "\n".join(done.stderr.splitlines()[-STDERR_LINES:])
            findings["crash"] = {"input": crashes[0] if crashes else None, "said": said}
        if notes.get("grown", 0) > ALLOWED_GROWTH:
            findings["memory"] = {"input": None, "said": f"grew by {notes['grown'] >> 20} MiB"}
        for one in findings.values():
            if one["input"] is not None:
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / one["input"], kept / f"{name}-{one['input']}")
        return {
            "minutes": minutes,
            "wall_minutes": round(seconds / 60, 2),
            "inputs": notes.get("inputs", 0),
            "corpus": sum(1 for _ in (folder / "corpus").glob("*")),
            "grown_mib": notes.get("grown", 0) >> 20,
            "findings": findings,
        }


def main() -> None:
    """Fuzzes, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="for each target")
    parser.add_argument(
        "--only", choices=TARGETS, action="append", help="a target, repeatable; keeps earlier results of the others"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="folder for the inputs of findings"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        raise MissingExtraError("fuzzing needs atheris: pip install atheris==3.0.0")
    known = json.loads(arguments.out.read_bytes())["targets"] if arguments.only and arguments.out.exists() else {}
    found: dict[str, Any] = {}
    for name in arguments.only or TARGETS:
        found[name] = fuzzed(name, arguments.minutes, arguments.seed, arguments.findings)
        write_report("fuzz", {"targets": known | found}, arguments.out)  # after each: the next may take an hour
    table = Table("target", "minutes", "inputs", "corpus", "memory, MiB", "findings")
    for name, one in found.items():
        numbers = one["minutes"], f"{one['inputs']:,}", one["corpus"], f"+{one['grown_mib']}"
        table.add_row(name, *map(str, numbers), ", ".join(one["findings"]) or "none")
    console = Console()
    console.print(table)
    findings = [(name, one) for name, target in found.items() for one in target["findings"].values()]
    for name, one in findings:
        console.print(one["said"], markup=False)
        if one["input"] is not None:
            again = arguments.findings / f"{name}-{one['input']}"
            console.print(f"rerun: python benchmarks/fuzz_worker.py {name} {again}", markup=False, soft_wrap=True)
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
