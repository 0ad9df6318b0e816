"""Ctrl-C while a command is still loading; a separate module because it is imported before anything slow."""

from __future__ import annotations

import os
import signal

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


def _exit(number: int, frame: object) -> None:
    del number, frame
    os._exit(INTERRUPTED)
