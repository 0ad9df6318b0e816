"""Running commands in processes of their own, without each importing PyTorch again.

`run_python` does what `subprocess.run([sys.executable, ...])` does: its own process, folder, environment, standard
output and error, and exit code. The process is forked from a server that has imported twotower once, and so are the
workers that it starts, which see the environment of that server.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import IO, Any

from twotower import processes

_servers: dict[int, subprocess.Popen[str]] = {}


def run_python(
    *arguments: object, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS`, where these are `-m MODULE …` or `SCRIPT …`.

    Args:
        arguments: What follows `python`.
        cwd: The folder to run it in; default: this process's.
        env: Its environment; default: this process's.
        timeout: Seconds after which it is killed.

    Raises:
        TimeoutExpired: It was killed.
    """
    words = list(map(str, arguments))
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        streams = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        task = {
            "argv": words,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "timeout": timeout,
        }
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(task | streams) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        out, err = (Path(path).read_text(encoding="utf-8") for path in streams.values())
    if code is None:
        raise subprocess.TimeoutExpired(words, timeout, out, err)
    return subprocess.CompletedProcess(words, code, out, err)


def fork_workers() -> None:
    """Has this process's workers forked from a server that has imported what they need, from the first worker on."""
    processes.START_METHOD = "forkserver"
    forkserver.set_forkserver_preload(["torch._dynamo", "twotower.experiments.run"])  # an optimiser imports dynamo


def _start_fork_server() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as workers have it
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _server() -> subprocess.Popen[str]:
    """This process's server, started when it is first asked for."""
    found = _servers.get(os.getpid())
    if found is None or found.poll() is not None:
        command = [sys.executable, __file__]
        found = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _servers[os.getpid()] = found
        atexit.register(found.kill)
    return found


def _serve(tasks: IO[str], answers: IO[str]) -> None:
    """Forks a child for each task and answers with its exit code; null where it was killed."""
    from twotower import processes

    processes.START_METHOD = "forkserver"
    forkserver.set_forkserver_preload(["torch._dynamo", "twotower.experiments.run"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as workers have it
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    server = forkserver._forkserver
    server.ensure_running = lambda: None  # type: ignore[method-assign]  # which the children may not ask, as it is none of theirs
    for line in tasks:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(task)
        answers.write(json.dumps(_waited(child, task["timeout"])) + "\n")
        answers.flush()


def _waited(child: int, timeout: float) -> int | None:
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        os.killpg(child, signal.SIGKILL)

    watch = threading.Timer(timeout, kill)
    watch.start()
    try:
        _, status = os.waitpid(child, 0)
    finally:
        watch.cancel()
    return None if killed.is_set() else os.waitstatus_to_exitcode(status)


def _become(task: dict[str, Any]) -> None:
    """Turns this process into `python ARGV`; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(task["env"])
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
