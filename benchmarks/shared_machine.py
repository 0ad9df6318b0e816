"""Training, studies, tuning and the service on a machine that is quiet, partly busy, or limited by a quota.

    python benchmarks/shared_machine.py --data movielens-100k --repetitions 3

Each command runs on a quiet machine, beside a program that keeps one core busy, and with a quota of one core; once with
the threads that twotower chooses, once with the number fixed at all cores, and once at one. Prints a table of times
and their ratios to the quiet machine, and writes JSON. Rounds of all combinations alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import msgspec
from measuring import readable, write_report
from rich.console import Console
from rich.table import Table

from twotower.data import builtin
from twotower.processes import CGROUPS, allowed_cores
from twotower.recipes.config import Config, ModelConfig

LAYERS = (128, 64, 32)
"""Layers of the model of `train`."""

Run = Callable[[argparse.Namespace, dict[str, str]], dict[str, float]]
"""Runs a command in an environment, and gives its times in seconds by name."""

Condition = Callable[[], AbstractContextManager[None]]
"""What else the machine does while a command runs."""


class Measured(msgspec.Struct, frozen=True):
    """One command under one condition, with one choice of threads.

    Attributes:
        command: What ran.
        threads: Who chose the number of threads, and how.
        condition: What else the machine did.
        seconds: The times of each round, by what was timed.
    """

    command: str
    threads: str
    condition: str
    seconds: dict[str, list[float]]


def epoch(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
    """Median time of an epoch of the tutorial's deepest model in a process of its own."""
    command = [sys.executable, __file__, "--data", options.data, "--epochs", str(options.epochs), "--train-here"]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return {"epoch": statistics.median(json.loads(said))}


def train_here(options: argparse.Namespace) -> None:
    """Trains in this process, and prints the seconds of each epoch but the first."""
    log = builtin.load(options.data)
    config = Config(recipe="tutorial", model=ModelConfig(layers=LAYERS))
    part = config.rule_for(log)(log).train
    resolved = config.resolved_recipe(part)
    model = config.model.build(part, resolved)
    history = resolved.trainer.fit(model, part, stop_after=options.epochs + 1, progress=False)
    print(json.dumps([one.seconds for one in history.epochs[1:]]))


def timed(*arguments: str) -> Run:
    """A run of one of twotower's commands, timed as a whole."""

    def run(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="twotower-shared-") as folder:
            own = [options.data if one == "DATA" else one for one in arguments]
            command = [sys.executable, "-m", "twotower", *own, "--baselines", "none", "--out", f"{folder}/out"]
            started = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            return {"whole": time.perf_counter() - started}

    return run


def service(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
    """Latency of the service under a steady load."""
    with tempfile.TemporaryDirectory(prefix="twotower-shared-") as folder:
        out = Path(folder) / "service.json"
        command = [sys.executable, str(Path(__file__).parent / "service.py"), "load", "--out", str(out)]
        command += ["--candidates", str(options.candidates), "--rate", "100", "--seconds", str(options.seconds)]
        command += ["--threads", str(allowed_cores())]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        latency = json.loads(out.read_bytes())["outcome"]["latency"]
    return {name: latency[name] for name in ("p50", "p99")}


COMMANDS: dict[str, Run] = {
    "train": epoch,
    "study": timed("study", "DATA", "--recipe", "tutorial", "--epochs", "12"),
    "tune": timed("tune", "DATA", "--trials", "4"),
    "serve": service,
}
"""What is measured, by name."""


CONDITIONS = ["quiet", "busy", "limited"]
"""What else the machine does: nothing; a program keeps one core busy; a quota leaves one core."""

THREADS = ["chosen", "all", "one"]
"""Who chooses the number of threads: twotower, or a user who fixes it at all cores or at one."""


@contextmanager
def one_core_busy() -> Iterator[None]:
    """A program that keeps a core busy; the system moves it as it likes."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        try:
            yield
        finally:
            hog.kill()


@contextmanager
def quota_of_one_core() -> Iterator[None]:
    """Puts this process and all that it starts into a new control group that may use one core.

    Raises:
        OSError: Control groups cannot be written.
    """
    root, controller = (CGROUPS / "cpu", "cpu") if (CGROUPS / "cpu").is_dir() else (CGROUPS, "")
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    before = next(path for _, controllers, path in lines if controller in controllers.split(","))
    group = root / f"twotower-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("100000")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (root / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


@contextmanager
def bound_to_one_core() -> Iterator[None]:
    """Binds this process and all that it starts to one core, where a quota cannot be set."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def limited() -> tuple[str, Condition]:
    """A limit of one core that this machine allows to set, and its name."""
    try:
        with quota_of_one_core():
            pass
    except OSError:
        return "bound to one core", bound_to_one_core
    return "quota of one core", quota_of_one_core


def measured(options: argparse.Namespace, console: Console) -> list[Measured]:
    """All combinations, round by round."""
    name, limit = limited()
    every: dict[str, tuple[str, Condition]] = {
        "quiet": ("quiet", nullcontext),
        "busy": ("one core busy", one_core_busy),
        "limited": (name, limit),
    }
    conditions = dict(every[one] for one in options.conditions)
    fixed_at = {"chosen": None, "all": allowed_cores(), "one": 1}
    numbers = {f"fixed at {fixed_at[one]}" if fixed_at[one] else one: fixed_at[one] for one in options.threads}
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for number in range(options.repetitions):
        for command in options.commands:
            for threads, fixed in numbers.items():
                for condition, under in conditions.items():
                    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
                    environment |= {} if fixed is None else {"OMP_NUM_THREADS": str(fixed)}
                    with under():
                        taken = COMMANDS[command](options, environment)
                    said = ", ".join(f"{what} {readable(seconds)}" for what, seconds in taken.items())
                    console.print(f"round {number + 1}: {command}, threads {threads}, {condition}: {said}")
                    own = found.setdefault((command, threads, condition), {})
                    for what, seconds in taken.items():
                        own.setdefault(what, []).append(seconds)
    return [Measured(*key, seconds) for key, seconds in found.items()]


def table(results: list[Measured]) -> Table:
    """Medians, and how many times as long as with the chosen threads on a quiet machine, in brackets."""
    conditions = list(dict.fromkeys(one.condition for one in results))
    shown = Table("command", "threads", *conditions, show_edge=False)
    medians = {
        (one.command, what, one.threads, one.condition): statistics.median(seconds)
        for one in results
        for what, seconds in one.seconds.items()
    }
    for command, what, threads in dict.fromkeys(key[:3] for key in medians):
        quiet = medians[command, what, "chosen", "quiet"]
        cells = [medians[command, what, threads, condition] for condition in conditions]
        shown.add_row(f"{command}, {what}", threads, *(f"{readable(cell)} ({cell / quiet:.2f})" for cell in cells))
    return shown


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="simulated")
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--threads", nargs="+", choices=THREADS, default=THREADS)
    parser.add_argument("--epochs", type=int, default=12, help="timed epochs of train")
    parser.add_argument("--candidates", type=int, default=100_000, help="candidates of the service")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of load on the service")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/shared-machine.json beside this script")
    parser.add_argument("--train-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_here:
        train_here(options)
        return
    console = Console()
    results = measured(options, console)
    console.print(table(results))
    sizes = {name: getattr(options, name) for name in ("data", "epochs", "candidates", "seconds")}
    path = write_report("shared-machine", {"options": sizes, "results": results}, options.out)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
