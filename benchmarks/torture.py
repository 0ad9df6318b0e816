"""Fault injection: makes each call with which a command changes a file fail, and checks that nothing is lost.

    python benchmarks/torture.py
    python benchmarks/torture.py --only "candidates add" --every 5
    python benchmarks/torture.py --minutes 10

The calls of the C library that change a file are counted. The command then runs once per call and kind of fault, in a
forked process: the disk is full from that call on; the call fails with an I/O error; the process and its workers are
killed, halfway through a write; or the power is cut, so that unsynced files are empty. Further runs have a read-only
folder, few file descriptors, little memory, a small disk, a jumping clock, or two processes that run it at once.

A fault is survived if the old or the new result is complete; if a failing command names the reason in one line,
without a traceback; if rerunning it gives the undisturbed result; and if at most one file or folder is left over.
When memory is short, a library may abort the process, which counts as killing it, and a trial of `tune` may fail if the
result says so. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from faults import KINDS, READ_ONLY, Ended, Kind, in_child, in_children, load_shim, run_with_fault
from limits import LIMITS, LimitKind

if not {"-h", "--help"} & set(sys.argv):  # help needs no compiler
    load_shim()

from measuring import write_report
from rich.console import Console
from rich.table import Table
from scenarios import SCENARIOS, Scenario, load_modules, make_cheap, make_template, note_modules, note_worker_modules
from sieges import SIEGES, Siege

TWICE, TIMES = "twice at once", 20
"""A command that runs in two processes at once: its name in the table, and the number of delays of the second one."""

LEFTOVERS = 1
"""Maximum number of files and folders that a fault may leave beside the result."""


@dataclass
class Bench:
    """The working folders and the results so far.

    Attributes:
        home: A temporary folder.
        tried: Number of faults by command and kind.
        lost: Descriptions of the faults that were not survived.
    """

    home: Path
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def template(self) -> Path:
        """The folder that commands start from."""
        return self.home / "template"

    @property
    def root(self) -> Path:
        """The folder that commands run in, always the same path."""
        return self.home / "root"

    def fresh(self) -> Path:
        """Resets the root to the template."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)
        return self.root

    def note(self, command: str, kind: str, problem: str | None) -> None:
        """Records the result of one fault."""
        self.tried[command, kind] += 1
        if problem is not None:
            self.lost.setdefault((command, kind), []).append(problem)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run of a command.

    Attributes:
        calls: Number of calls that change files.
        seconds: How long it took.
        old: The state before.
        new: The state after.
        before: Every file before, with a digest of its content.
        names: Every file after.
    """

    calls: int
    seconds: float
    old: str
    new: str
    before: dict[str, str]
    names: frozenset[str]


def main() -> None:
    """Runs the faults and prints the table."""
    arguments = _parser().parse_args()
    resource_tracker.ensure_running()
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="twotower-torture-", dir=arguments.folder) as home:
        bench = Bench(Path(home))
        started = time.monotonic()
        planned = _run(bench, arguments, end)
    rows = _rows(bench)
    Console().print(_table(rows))
    tried, lost = sum(row["tried"] for row in rows), sum(row["lost"] for row in rows)
    print(f"{tried:,} faults of {planned:,} tried, {tried - lost:,} survived, {lost:,} lost")
    for (command, kind), problems in bench.lost.items():
        for problem in problems[: arguments.show]:
            print(f"LOST {command}, {kind}: {problem}")
    if arguments.out is not None:
        seconds = time.monotonic() - started
        losses = [
            f"{command}, {kind}: {problem}" for (command, kind), problems in bench.lost.items() for problem in problems
        ]
        report = {"seconds": seconds, "planned": planned, "tried": tried, "lost": lost, "rows": rows, "losses": losses}
        write_report("torture", report, arguments.out)
    sys.exit(1 if lost else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=None, help="commands, by their names in the table")
    parser.add_argument("--kinds", nargs="+", default=None, help="kinds of faults, by their names in the table")
    parser.add_argument("--every", type=int, default=1, help="try only every n-th fault")
    parser.add_argument("--experiments-every", type=int, default=4, help="factor of --every for train, study and tune")
    parser.add_argument("--minutes", type=float, default=90.0, help="time limit; faults run in random order")
    parser.add_argument("--folder", default=None, help="where to work; default: the system's temporary folder")
    parser.add_argument("--show", type=int, default=3, help="losses to print per command and kind")
    parser.add_argument("--out", type=Path, default=None, help="also write the table as JSON")
    return parser


def _run(bench: Bench, arguments: argparse.Namespace, end: float) -> int:
    """Tries faults in random order until time is up; returns the number of planned faults."""
    cache = bench.home / "cache"
    cache.mkdir()
    make_cheap(cache)
    code, said = in_child(lambda: _noting_modules(cache, lambda: _made(bench.template)))
    if code:
        raise RuntimeError(said)
    load_modules(cache)
    wanted = [one for one in SCENARIOS if arguments.only is None or one.name in arguments.only]
    jobs: list[Callable[[], None]] = []
    for scenario in wanted:
        jobs += _jobs(bench, scenario, _reference(bench, scenario, cache), arguments)
    for siege in SIEGES:
        if (arguments.only is None or siege.command in arguments.only) and _wanted(siege.name, arguments):
            jobs += [partial(_besiege, bench, siege, seed) for seed in range(0, siege.times, arguments.every)]
    gc.collect()
    gc.freeze()
    random.Random(0).shuffle(jobs)
    for job in jobs:
        if time.monotonic() > end:
            break
        job()
    return len(jobs)


def _jobs(
    bench: Bench, scenario: Scenario, reference: Reference, arguments: argparse.Namespace
) -> list[Callable[[], None]]:
    """One job per fault; for commands that train, only every n-th."""
    every = arguments.every * (arguments.experiments_every if scenario.trains else 1)
    jobs: list[Callable[[], None]] = []
    for kind in KINDS:
        if _wanted(kind.name, arguments):
            places = range(1, reference.calls + 1, every)
            jobs += [partial(_try, bench, scenario, reference, kind, at) for at in places]
    if _wanted(READ_ONLY.name, arguments):
        jobs.append(partial(_try, bench, scenario, reference, READ_ONLY, 1))
    for limit in LIMITS:
        if _wanted(limit.name, arguments):
            jobs += [partial(_try_limit, bench, scenario, reference, limit, level) for level in limit.levels[::every]]
    if _wanted(TWICE, arguments):
        jobs += [partial(_try_twice, bench, scenario, reference, number) for number in range(0, TIMES, every)]
    return jobs


def _wanted(kind: str, arguments: argparse.Namespace) -> bool:
    return arguments.kinds is None or kind in arguments.kinds


def _made(template: Path) -> int:
    make_template(template)
    return 0


def _reference(bench: Bench, scenario: Scenario, cache: Path) -> Reference:
    """Runs a command undisturbed, twice, so that the second run finds all its modules imported."""
    root = bench.root
    for _ in range(2):
        bench.fresh()
        before, old, began = _tree(root), _state(scenario, root), time.monotonic()
        ended = run_with_fault(lambda: _noting_modules(cache, lambda: scenario.run(root)), root, KINDS[0], 0)
        if ended.code:
            raise RuntimeError(f"{scenario.name}: {ended.said}")
        seconds = time.monotonic() - began
        load_modules(cache)
    new = _state(scenario, root)
    if old == new:
        raise RuntimeError(f"{scenario.name} changes nothing")
    return Reference(ended.calls, seconds, old, new, before, frozenset(_tree(root)))


def _try(bench: Bench, scenario: Scenario, reference: Reference, kind: Kind, at: int) -> None:
    """Injects one fault and records the result."""
    root = bench.fresh()
    ended = run_with_fault(lambda: scenario.run(root), root, kind, at)
    if not ended.fired:  # workers share the count, and their order may vary
        return
    reason = os.strerror(kind.error) if kind.error else None
    problem = _ending(ended, reason) or _judged(scenario, root, reference, ended.code)
    bench.note(scenario.name, kind.name, problem and f"call {at}: {problem}; it said {ended.said[-900:]!r}")


def _try_limit(bench: Bench, scenario: Scenario, reference: Reference, limit: LimitKind, level: int) -> None:
    """Runs a command under a system limit and records the result."""
    root = bench.fresh()
    with limit.around(root, level):
        code, said = in_child(lambda: limit.run(lambda: scenario.run(root), level))
    problem = _ending(Ended(code, said, 0, 1), None) if limit.ends else None
    if limit.ends or code != 0 or not scenario.reports_failures(root):
        problem = problem or _judged(scenario, root, reference, code)
    bench.note(scenario.name, limit.name, problem and f"level {level}: {problem}")


def _try_twice(bench: Bench, scenario: Scenario, reference: Reference, number: int) -> None:
    """Runs a command twice at once, the second time a little later, and records the result."""
    root, later = bench.fresh(), reference.seconds * number / TIMES

    def second() -> int:
        time.sleep(later)
        return scenario.run(root)

    found = in_children([lambda: scenario.run(root), second])
    problem = next((wrong for code, said in found if (wrong := _ending(Ended(code, said, 0, 1), None))), None)
    if problem is None and all(code for code, _ in found):
        problem = f"both failed: {found}"
    problem = problem or _judged(scenario, root, reference, 0)
    bench.note(scenario.name, TWICE, problem and f"{later:.2f} s later: {problem}")


def _besiege(bench: Bench, siege: Siege, seed: int) -> None:
    """Runs one stress test and records the result."""
    root = bench.fresh()

    def judged() -> int:
        problem = siege.run(root, seed)
        sys.stderr.write(problem or "")
        return 0 if problem is None else 1

    code, said = in_child(judged)
    bench.note(siege.command, siege.name, None if code == 0 else f"seed {seed}, code {code}: {said[-900:]}")


def _ending(ended: Ended, reason: str | None) -> str | None:
    """What is wrong with the way a command ended; None if nothing is."""
    if ended.code in (0, -signal.SIGKILL):
        return None
    if ended.code == -signal.SIGALRM:
        return f"it hung: {ended.said[-900:]}"
    if not 1 <= ended.code <= 5:
        return f"it ended with exit code {ended.code}: {ended.said[-900:]}"
    if "Traceback" in ended.said or "error" not in ended.said:
        return f"it ended without a twotower error: {ended.said[-900:]}"
    if reason is not None and reason not in " ".join(ended.said.split()):
        return f"the error does not name the reason, {reason}: {ended.said[-900:]}"
    return None


def _judged(scenario: Scenario, root: Path, reference: Reference, code: int) -> str | None:
    """What a fault has lost; None if nothing."""
    if _tree(root) == reference.before:  # nothing was written, so a rerun equals a first run
        return "it reported success, but nothing was written" if code == 0 else None
    code, said = in_child(lambda: _judge(scenario, root, reference, code))
    return None if code == 0 else said[-900:]


def _judge(scenario: Scenario, root: Path, reference: Reference, code: int) -> int:
    """Checks the state, reruns the command and checks its result; runs in a forked process."""
    found = scenario.whole(root)
    if found not in (reference.old, reference.new) or (code == 0 and found != reference.new):
        sys.stderr.write(f"after exit code {code} the state is {found}; expected {reference.old} or {reference.new}")
        return 1
    if scenario.repeatable or found == reference.old:
        again = scenario.run(root)
        if again != 0 or (found := scenario.whole(root)) != reference.new:
            sys.stderr.write(f"the rerun ended with {again} and the state {found}; expected {reference.new}")
            return 1
    left = _topmost(set(_tree(root)) - reference.names)
    if len(left) > LEFTOVERS:
        sys.stderr.write(f"{len(left)} leftovers: {', '.join(sorted(left))}")
        return 1
    return 0


def _topmost(names: set[str]) -> set[str]:
    """Reduces paths below a temporary folder to that folder: `.shop.x3.building` for all its files."""
    found = set()
    for name in names:
        parts = name.split("/")
        place = next((number for number, part in enumerate(parts) if part.startswith(".")), len(parts) - 1)
        found.add("/".join(parts[: place + 1]))
    return found


def _state(scenario: Scenario, root: Path) -> str:
    """The state, read in a forked process."""
    code, said = in_child(lambda: sys.stderr.write(scenario.whole(root)) and 0)
    if code:
        raise RuntimeError(said)
    return said


def _tree(root: Path) -> dict[str, str]:
    """Every file and empty folder, except locks, with a digest of its content."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if not name.endswith(".lock"):
                found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        if not folders and not files:
            found[Path(folder).relative_to(root).as_posix()] = ""
    return found


def _noting_modules(cache: Path, work: Callable[[], int]) -> int:
    note_worker_modules(cache)
    code = work()
    note_modules(cache)
    return code


def _rows(bench: Bench) -> list[dict[str, Any]]:
    """The table's rows as plain data."""
    return [
        {"command": command, "fault": kind, "tried": tried, "lost": len(bench.lost.get((command, kind), []))}
        for (command, kind), tried in sorted(bench.tried.items())
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in ("command", "fault", "tried", "survived", "lost"):
        table.add_column(name, justify="left" if name in ("command", "fault") else "right")
    for row in rows:
        cells = (row["command"], row["fault"], row["tried"], row["tried"] - row["lost"], row["lost"])
        table.add_row(*map(str, cells))
    return table


if __name__ == "__main__":
    main()
