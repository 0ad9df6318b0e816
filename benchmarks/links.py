"""Processes of one machine joined by a network of limited links: each is in a network namespace of its own.

Needs Linux, root and iproute2. A bridge joins the namespaces; `tc` limits what each of them sends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LINK = "wire"
"""Name of the interface within each namespace."""

PORT = 29_500
CLONE_NEWNET = 0x40000000
BURST, QUEUE = "64k", "200ms"
"""What a link sends at once, and how long a packet may wait in its queue."""


def are_possible() -> bool:
    """Whether this process may make namespaces and links."""
    return sys.platform == "linux" and os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc")))


def address(number: int) -> str:
    """The address of the process with this number, from 0."""
    return f"10.213.0.{number + 1}"


@contextmanager
def limited(count: int, megabits: float) -> Iterator[list[str]]:
    """Yields the names of namespaces whose links send so many megabits per second; removes them at the end.

    Raises:
        SystemExit: The system refuses.
    """
    hub, *names = (f"twotower-{os.getpid()}-{name}" for name in ("hub", *range(count)))
    made: list[str] = []
    try:
        for name in (hub, *names):
            _run("ip", "netns", "add", name)
            made.append(name)
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            _join(name, hub, number, megabits)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def enter(name: str) -> None:
    """Moves this process into a namespace, before it starts other threads; gloo then uses its link.

    Raises:
        OSError: The system refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", name).open("rb") as namespace:
        if library.setns(namespace.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
    os.environ["GLOO_SOCKET_IFNAME"] = LINK


def sent_bytes() -> int:
    """Bytes that this process's link has sent, headers included; 0 outside of a namespace."""
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == LINK:
            return int(counters.split()[8])
    return 0


def _join(name: str, hub: str, number: int, megabits: float) -> None:
    other = f"to{number}"
    _run("ip", "link", "add", LINK, "netns", name, "type", "veth", "peer", "name", other, "netns", hub)
    _run("ip", "-n", hub, "link", "set", other, "master", "bridge", "up")
    _run("ip", "-n", name, "address", "add", f"{address(number)}/24", "dev", LINK)
    for interface in ("lo", LINK):
        _run("ip", "-n", name, "link", "set", interface, "up")
    limit = ("rate", f"{megabits}mbit", "burst", BURST, "latency", QUEUE)
    _run("tc", "-n", name, "qdisc", "add", "dev", LINK, "root", "tbf", *limit)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
