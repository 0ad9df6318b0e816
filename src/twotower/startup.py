"""What holds while a command is still loading; a separate module because it is imported before anything slow."""

from __future__ import annotations

import gc
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


def stop_collecting() -> None:
    """Turns garbage collection off while a command is loading: there is no garbage, and looking for it takes long."""
    gc.disable()


def collect_again() -> None:
    """Turns garbage collection on again once a command begins, except among the objects that loading made."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _exit(number: int, frame: object) -> None:
    del number, frame
    os._exit(INTERRUPTED)
