"""Running commands in processes of their own, without each importing PyTorch again.

`run_python` does what `subprocess.run([sys.executable, ...])` does, and `start_python` what `subprocess.Popen` does:
an own process, folder, environment, standard output and error, and exit code. The process is forked from a server that
has imported twotower once, and so are the workers that it starts, which see the environment of that server.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import IO, Any

from twotower import processes

COMMANDS = ("bundle", "data", "models", "recommend", "serve", "study", "tune")
WORKERS = ("torch._dynamo", "pandas", "twotower.experiments.run")  # optimisers import dynamo, and Arrow pandas
LATE = ("twotower.experiments.tuning.tune", "typer._adapters", "twotower.cli.main", "_strptime")
IMPORTED = (*(f"twotower.cli.{name}" for name in COMMANDS), *WORKERS, *LATE)

_servers: dict[int, subprocess.Popen[str]] = {}


@dataclass
class Forked:
    """A process that runs, or has ended with `returncode`; what it writes is in the files."""

    pid: int
    stdout: Path
    stderr: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """How it has ended; None where it runs."""
        if self.returncode is None:
            self.returncode = _asked({"wait": self.pid, "seconds": 0.0})
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Waits for its end.

        Raises:
            TimeoutExpired: It did not end; it is killed, and what is of its group with it.
        """
        if self.returncode is None:
            self.returncode = _asked({"wait": self.pid, "seconds": timeout})
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.returncode = _asked({"wait": self.pid, "seconds": timeout})
            raise subprocess.TimeoutExpired(str(self.pid), timeout, self.stdout.read_text(), self.stderr.read_text())
        return self.returncode

    def wait_for(self, text: str, times: int = 1, timeout: float = 60) -> None:
        """Waits until it has written a text to its standard output so many times."""
        end = time.monotonic() + timeout
        while self.stdout.read_text(encoding="utf-8").count(text) < times:
            assert self.poll() is None, self.stderr.read_text(encoding="utf-8")
            assert time.monotonic() < end, f"it has not said {text!r} in {timeout} s"
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        """Sends a signal to it alone."""
        os.kill(self.pid, number)


def start_python(
    *arguments: object, folder: Path, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> Forked:
    """Starts `python ARGUMENTS`, where these are `-m MODULE …`, `-c SOURCE …` or `SCRIPT …`.

    Args:
        arguments: What follows `python`.
        folder: Where the files `stdout` and `stderr` go that it writes.
        cwd: The folder to run it in; default: this process's.
        env: Its environment; default: this process's.
    """
    streams = {name: str(folder / name) for name in ("stdout", "stderr")}
    for path in streams.values():
        Path(path).touch()  # now, as the caller may read before the process writes
    task = {
        "argv": list(map(str, arguments)),
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
    }
    pid = _asked(task | streams)
    assert pid is not None
    return Forked(pid, Path(streams["stdout"]), Path(streams["stderr"]))


def run_python(
    *arguments: object, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` as `start_python` starts it, and waits for its end.

    Raises:
        TimeoutExpired: It was killed after so many seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = start_python(*arguments, folder=Path(folder), cwd=cwd, env=env)
        code = done.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out, err)


def fork_workers() -> None:
    """Has this process's workers forked from a server that has imported what they need, from the first worker on."""
    processes.START_METHOD = "forkserver"
    forkserver.set_forkserver_preload(list(WORKERS))


def _asked(question: dict[str, Any]) -> int | None:
    """This process's server's answer; the server is started when it is first asked."""
    server = _servers.get(os.getpid())
    if server is None or server.poll() is not None:
        command = [sys.executable, __file__]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _servers[os.getpid()] = server
        atexit.register(server.kill)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    answer: int | None = json.loads(server.stdout.readline())
    return answer


def _serve(questions: IO[str], answers: IO[str]) -> None:
    """Forks a child for each task and answers with its number; or waits for one, and answers how it has ended."""
    fork_workers()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as workers have it
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The children share the server of workers, but may not ask whether it runs, as it is no child of theirs.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    for line in questions:
        question = json.loads(line)
        if "wait" in question:
            answer = _waited(question["wait"], question["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                _become(question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _waited(child: int, seconds: float) -> int | None:
    """The exit code of a child; None where it still runs after so long."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.005)


def _become(task: dict[str, Any]) -> None:
    """Turns this process into `python ARGV`; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(task["env"])
        tempfile.tempdir = None  # what TMPDIR says is asked for once, and kept
        os.chdir(task["cwd"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _run(task["argv"])
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(argv: list[str]) -> int:
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = argv
            sys.path[0] = str(Path(argv[0]).resolve().parent)
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
