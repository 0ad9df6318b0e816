"""Running commands in processes of their own, without each importing PyTorch again.

`run_python` does what `subprocess.run([sys.executable, ...])` does, and `start_python` what `subprocess.Popen` does:
an own process, folder, environment, standard output and error, and exit code. The process is forked from a server that
has imported twotower once. Workers of `multiprocessing` are forked from a copy of that server, and see its environment.

All processes of a test run share the server: whichever needs it first starts it, and it ends after the last of them.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from subprocess import Popen
from typing import Any

COMMANDS = ("bundle", "data", "models", "recommend", "serve", "study", "tune")
WORKERS = ("torch._dynamo", "pandas", "twotower.experiments.run")  # optimisers import dynamo, and Arrow pandas
LATE = ("twotower.experiments.tuning.tune", "typer._adapters", "twotower.cli.main", "_strptime")
IMPORTED = (*(f"twotower.cli.{name}" for name in COMMANDS), *WORKERS, *LATE)

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
ADDRESS = Path(tempfile.gettempdir()) / f"twotower-{os.getuid()}-{RUN[:16]}.socket"
"""Where the server of this test run listens."""

FORKED_PYTHON = Path(__file__).with_name("forked_python.py")
"""What other programs can start in place of Python; it needs `PYTEST_XDIST_TESTRUNUID=RUN` in its environment."""

_connections: dict[int, socket.socket] = {}


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
    *arguments: object,
    folder: Path,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Forked:
    """Starts `python ARGUMENTS`, where these are `-m MODULE …`, `-c SOURCE …` or `SCRIPT …`.

    Args:
        arguments: What follows `python`.
        folder: Where the files `stdout` and `stderr` go that it writes.
        cwd: The folder to run it in; default: this process's.
        env: Its environment; default: this process's.
        log: One file for both, instead.
    """
    streams = {name: str(log or folder / name) for name in ("stdout", "stderr")}
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
    """Has this process's workers forked from the server, from the first worker on."""
    processes: Any = importlib.import_module("twotower.processes")  # late, as it imports PyTorch
    processes.START_METHOD = "forkserver"
    forkserver._forkserver.ensure_running = _find_forkserver  # type: ignore[method-assign]


def _find_forkserver() -> None:
    """Has `multiprocessing` use the server of workers that belongs to the server of commands."""
    resource_tracker.ensure_running()
    found: Any = forkserver._forkserver
    if found._forkserver_address is None or found._owner != os.getpid():
        connection = connect()
        connection.sendall(b'{"workers": true}\n')
        address, (alive,), *_ = socket.recv_fds(connection, 4096, 1)
        found._forkserver_address, found._forkserver_alive_fd, found._owner = address.decode(), alive, os.getpid()


def _asked(question: dict[str, Any]) -> int | None:
    """The server's answer."""
    connection = connect()
    connection.sendall(json.dumps(question).encode() + b"\n")
    with connection.makefile("r") as answers:
        answer: int | None = json.loads(answers.readline())
    return answer


def connect() -> socket.socket:
    """This process's connection to the server, which runs as long as one is open; the first of a run starts it."""
    connection = _connections.get(os.getpid())
    if connection is None:
        with _locked(ADDRESS):
            connection = _connections[os.getpid()] = _connected() or _started()
        atexit.register(connection.close)
    return connection


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(ADDRESS))
    except OSError:  # there is none, or it has ended
        connection.close()
        return None
    return connection


def _started() -> socket.socket:
    """A connection to a new server, which answers when it has imported everything."""
    ADDRESS.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ADDRESS))
        listener.listen()
        command = [sys.executable, __file__, str(listener.fileno()), str(ADDRESS)]
        inherited, nowhere = [listener.fileno()], subprocess.DEVNULL
        server = Popen(command, pass_fds=inherited, stdin=nowhere, stdout=nowhere)
        server.returncode = 0  # nobody waits for it: it outlives this process if others are connected
    connection = _connected()
    assert connection is not None
    return connection


@contextmanager
def _locked(address: Path) -> Iterator[Path]:
    """Holds the lock of those who start or end a server at this address."""
    path = address.with_suffix(".lock")
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def _serve(listener: socket.socket, address: Path) -> None:
    """Forks a process for each connection, which forks the commands; ends after the last of them."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    _fork_forkserver()
    connected: set[int] = set()
    while True:
        while select.select([listener], [], [], 0.1)[0]:
            connection, _ = listener.accept()
            child = os.fork()
            if child == 0:
                listener.close()
                with suppress(ConnectionError):  # a client that was killed while it waited
                    _answer(connection)
                os._exit(0)
            connection.close()
            connected.add(child)
        connected = {child for child in connected if os.waitpid(child, os.WNOHANG)[0] == 0}
        if connected:
            continue
        with _locked(address) as lock:
            if not select.select([listener], [], [], 0)[0]:
                address.unlink()
                lock.unlink()
                return


def _fork_forkserver() -> None:
    """Starts the server of workers as a fork of this process; elsewhere it would import everything again."""

    def forked(_: object, arguments: Sequence[Any], kept: Sequence[int]) -> int:
        child = os.fork()
        if child == 0:
            opened = {int(path.name) for path in Path("/dev/fd").iterdir()}
            for number in opened - {0, 1, 2, *kept}:
                with suppress(OSError):  # the one that listed them
                    os.close(number)
            exec(arguments[-1], {"__name__": "__main__"})
            os._exit(0)
        return child

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as workers have it
    resource_tracker.ensure_running()
    spawned = util.spawnv_passfds
    util.spawnv_passfds = forked  # type: ignore[assignment]
    forkserver.ensure_running()
    util.spawnv_passfds = spawned
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    processes: Any = importlib.import_module("twotower.processes")  # late, as it imports PyTorch
    processes.START_METHOD = "forkserver"
    # The children share the server of workers, but may not ask whether it runs, as it is no child of theirs.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]


def _answer(connection: socket.socket) -> None:
    """Forks a child for each task and answers with its number; or waits for one, and answers how it has ended."""
    with connection.makefile("r") as questions:
        for line in questions:
            question = json.loads(line)
            if "workers" in question:
                found: Any = forkserver._forkserver
                socket.send_fds(connection, [found._forkserver_address.encode()], [found._forkserver_alive_fd])
                continue
            if "wait" in question:
                answer = _waited(question["wait"], question["seconds"])
            else:
                answer = os.fork()
                if answer == 0:
                    _become(question)
            connection.sendall(json.dumps(answer).encode() + b"\n")


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
            os.dup2(os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
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
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        _serve(inherited, Path(sys.argv[2]))
