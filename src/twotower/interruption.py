"""Interruptions from the keyboard, kept until there is a good moment for them."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Notes an interruption from the keyboard, to be raised where work can be left.

    Raised wherever it comes, it is lost when that is in a finaliser or in a call from a library's other side,
    and the work goes on as if nobody had asked. A second one is raised at once. In a thread that is not the
    main one, which interruptions do not reach, it does nothing.

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
        """Raises what was noted.

        Raises:
            KeyboardInterrupt: An interruption came.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
