"""What holds while a command or a worker is still loading; a module of its own, imported before anything slow."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from types import FunctionType
from typing import Any

INTERRUPTED = 130
"""Exit code of an interrupted command."""


def exit_on_interrupt() -> None:
    """Lets Ctrl-C end this process at once, without a traceback from whatever is being imported.

    A parent that ignores interrupts, such as `nohup`, is respected.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Lets Ctrl-C raise `KeyboardInterrupt` again, once a command begins."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stop_collecting() -> None:
    """Turns garbage collection off during loading: there is no garbage, and looking for it takes long."""
    gc.disable()


def collect_again() -> None:
    """Turns garbage collection on again after loading, except among the objects that loading made."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _exit(number: int, frame: object) -> None:
    del number, frame
    os._exit(INTERRUPTED)


class WorkerCall:
    """A call for a new process, which imports the function, and classes among its arguments, when it makes the call.

    Args:
        work: A module-level function.
        arguments: Its arguments: plain data, ends of pipes, functions and classes.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._parts = [_Named.of(one) for one in (work, *arguments)]

    def __call__(self) -> None:
        """Makes the call."""
        stop_collecting()
        work, *arguments = (one.found() if isinstance(one, _Named) else one for one in self._parts)
        collect_again()
        work(*arguments)


@dataclass(frozen=True)
class _Named:
    """A function or class, by its module and its name in it."""

    module: str
    name: str

    @classmethod
    def of(cls, given: Any) -> Any:
        """A function or class by its name; anything else as it is."""
        return cls(given.__module__, given.__qualname__) if isinstance(given, type | FunctionType) else given

    def found(self) -> Any:
        """The function or class."""
        return reduce(getattr, self.name.split("."), import_module(self.module))
