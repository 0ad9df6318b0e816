"""Prefetches the next item of an iterator in a background thread while the current one is used."""

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
    """Iterates over a generator, prefetching one item in a background thread.

    At most two items exist at once: the one in use and the next. An error of the generator is raised where its item
    would have been returned. On leaving the block, normally or not, the pending item is awaited, the thread ends and
    the generator is closed.

    Args:
        items: The generator; nothing else may use it.

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
