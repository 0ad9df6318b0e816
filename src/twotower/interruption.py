"""Defers keyboard interrupts to a safe point."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Records a keyboard interrupt, to be raised at a point where work can stop safely.

    An interrupt that is raised immediately is lost if it arrives in a finaliser or in a library's callback, and the
    work continues as if nothing had happened. A second interrupt is raised immediately. Outside the main thread,
    which alone receives interrupts, this does nothing.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interruption.asked
        True
    """

    def __init__(self) -> None:
        self.asked = False
        self.reachable = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruption:
        if self.reachable:
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.reachable:
            signal.signal(signal.SIGINT, self.before)

    def raise_if_asked(self) -> None:
        """Raises the recorded interrupt, if any.

        Raises:
            KeyboardInterrupt: An interrupt was recorded.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
