"""What the serving process takes from the system, and what it gives back."""

from __future__ import annotations

import platform
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from commands import run_python, start_python
from twotower.serving.resources import RESERVED_DESCRIPTORS, raise_descriptor_limit

BUFFERS = """
import ctypes, sys
from pathlib import Path
from twotower.serving.resources import return_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def used(size):
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    return place

if sys.argv[1] == "return":
    return_freed_memory()
for _ in range(3):  # by default, glibc stops mapping buffers of this size once one has been freed
    libc.free(used(24 << 20))
buffers = []
for _ in range(4):
    buffers.append(used(20 << 20))
    used(900_000)  # what follows a buffer keeps the heap from shrinking
full = resident()
for buffer in buffers:
    libc.free(buffer)
print((full - resident()) >> 20)
"""
"""Prints how many MiB of 80 that are freed go back to the system."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize(("setting", "returned"), [("keep", False), ("return", True)])
def test_large_buffers_go_back_to_the_system(setting: str, returned: bool, tmp_path: Path) -> None:
    script = tmp_path / "buffers.py"
    script.write_text(BUFFERS, encoding="utf-8")
    done = run_python(script, setting)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) >= 79) == returned


@pytest.mark.skipif(sys.platform != "linux", reason="macOS allows less than it says")
def test_the_limit_on_descriptors_is_raised_and_some_are_reserved() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
        connections = raise_descriptor_limit()
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised >= min(before[1], 1 << 16)
        assert connections == raised - RESERVED_DESCRIPTORS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


LIMITED = """
import resource, sys
_, soft, hard, *words = sys.argv
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
from twotower.cli.main import app
app(words)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems differ")
@pytest.mark.parametrize(("soft", "hard", "answered"), [(128, 1024, 301), (256, 256, 192)])
def test_connections_leave_descriptors_for_bundles(
    saved_bundle: Path, tmp_path: Path, soft: int, hard: int, answered: int
) -> None:
    script = tmp_path / "limited.py"
    script.write_text(LIMITED, encoding="utf-8")
    words = ("serve", saved_bundle, "--port", 0, "--watch", 0)
    process = start_python(script, soft, hard, *words, folder=tmp_path)
    while b'"listening"' not in process.stderr.read_bytes():
        assert process.poll() is None, process.stderr.read_text(encoding="utf-8")
        time.sleep(0.05)
    lines = [line for line in process.stderr.read_bytes().splitlines() if b'"listening"' in line]
    port = int(msgspec.json.decode(lines[0])["port"])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client, ExitStack() as opened:
        assert client.get("/v2/health/live").status_code == 200  # and this connection stays
        others = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        assert 1 + sum(is_answered(one) for one in others) == answered
        assert client.post("/v1/reload").json()["changed"] is False
        refused = [line for line in client.get("/metrics").text.splitlines() if 'reason="connections"' in line]
        counted = f'twotower_refused_requests_total{{reason="connections"}} {301 - answered}.0'
        assert refused[:1] == ([] if answered == 301 else [counted])
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def is_answered(connection: socket.socket) -> bool:
    """Whether a request on a connection gets an answer before the connection ends."""
    connection.settimeout(30)
    try:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False
