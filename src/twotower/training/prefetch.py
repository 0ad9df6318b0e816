"""Making the next item of an iterator in a background thread while the one before it is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Final, TypeVar

T = TypeVar("T")


class _End:
    pass


_END: Final = _End()


@contextmanager
def one_ahead(items: Generator[T]) -> Iterator[Iterator[T]]:
    """The items of a generator, of which one at a time is made ahead, in a thread of its own.

    No more than two are there at once: the one in use and the next, in the making or waiting. An error of the
    generator is raised where the item would have been given. Leaving the block, however that comes, waits for the
    item in the making, ends the thread and closes the generator.

    Args:
        items: What to make; nothing else may use it.

    Example:
        >>> with one_ahead(number * number for number in range(4)) as squares:
        ...     list(squares)
        [0, 1, 4, 9]
    """

    def given(thread: ThreadPoolExecutor) -> Iterator[T]:
        coming = thread.submit(next, items, _END)
        while not isinstance(item := coming.result(), _End):
            coming = thread.submit(next, items, _END)
            yield item

    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="twotower-ahead") as thread:
        yield given(thread)
