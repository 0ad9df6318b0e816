"""Reports what is installed and works on this machine: versions, extras, CPU limits and devices."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from twotower.extras import EXTRAS
from twotower.processes import allowed_cores, allowed_threads, quota
from twotower.version import VERSION

LIBRARIES = ("torch", "numpy", "pyarrow", "scipy", "msgspec", "safetensors")
IMPORT_SECONDS = 60.0
"""An extra whose modules take longer to import counts as broken."""


@dataclass(frozen=True)
class ExtraState:
    """State of one extra.

    Attributes:
        name: The extra, such as `ann`.
        versions: Versions of its installed distributions.
        missing: Its distributions that are not installed.
        error: Why its modules cannot be imported; None if they can, or if some are missing.
    """

    name: str
    versions: dict[str, str]
    missing: list[str]
    error: str | None = None

    @property
    def works(self) -> bool:
        """Whether it is fully installed and can be imported."""
        return not self.missing and self.error is None


@dataclass(frozen=True)
class DeviceState:
    """State of one PyTorch device.

    Attributes:
        name: `cpu`, or `cuda:0` and so on.
        description: The model of the CPU or GPU.
        error: Why it does not work; None if it does.
    """

    name: str
    description: str
    error: str | None = None


@dataclass(frozen=True)
class Limits:
    """CPU limits of this process.

    Attributes:
        cores: Cores that it may run on.
        quota: CPUs that its cgroups allow, rounded down; None for no limit.
        omp_num_threads: The environment variable `OMP_NUM_THREADS`; None if unset.
        threads: Threads that twotower uses: the lowest of these limits.
    """

    cores: int
    quota: int | None
    omp_num_threads: str | None
    threads: int


@dataclass(frozen=True)
class Installation:
    """What `twotower doctor` reports, except the speed."""

    twotower: str
    python: str
    platform: str
    libraries: dict[str, str]
    limits: Limits
    devices: list[DeviceState]
    extras: list[ExtraState]


def installation() -> Installation:
    """Inspects this machine; the modules of each extra are imported in a separate process.

    Example:
        >>> installation_of_extra("ann").name
        'ann'
    """
    with ThreadPoolExecutor(allowed_threads()) as pool:
        extras = list(pool.map(installation_of_extra, EXTRAS))
    return Installation(
        twotower=VERSION,
        python=platform.python_version(),
        platform=platform.platform(),
        libraries={name: found for name in LIBRARIES if (found := _version(name)) is not None},
        limits=Limits(allowed_cores(), quota(), os.environ.get("OMP_NUM_THREADS"), allowed_threads()),
        devices=[_device("cpu", _processor()), *_cuda_devices()],
        extras=extras,
    )


def installation_of_extra(name: str, extras: Mapping[str, Mapping[str, str]] = EXTRAS) -> ExtraState:
    """Checks whether an extra is installed and can be imported.

    Its modules are imported in another process, so that a crash does not take this one down.

    Args:
        name: The extra.
        extras: For each extra, its modules and distributions, as in `EXTRAS`.
    """
    modules = extras[name]
    found = {distribution: _version(distribution) for distribution in modules.values()}
    missing = [distribution for distribution, number in found.items() if number is None]
    versions = {distribution: number for distribution, number in found.items() if number is not None}
    return ExtraState(name, versions, missing, None if missing else _import_error(list(modules)))


def _import_error(modules: list[str]) -> str | None:
    """The last line of stderr if importing the modules fails; None if it succeeds."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the import takes more than {IMPORT_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the import ended the process with exit code {done.returncode}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda_devices() -> list[DeviceState]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [_device(f"cuda:{number}", torch.cuda.get_device_name(number)) for number in range(count)]


def _device(name: str, description: str) -> DeviceState:
    """The state of a device, tested with a small matrix product."""
    try:
        ones = torch.ones(64, 64, device=name)
        right = bool(((ones @ ones).cpu() == 64).all())
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA raises AssertionError
        return DeviceState(name, description, str(error).strip().partition("\n")[0])
    return DeviceState(name, description, None if right else "gives a wrong matrix product")


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
