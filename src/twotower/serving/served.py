"""`Served`: the bundle that answers, and how another one takes its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from twotower.errors import MissingExtraError, SavedFolderError, StoreUnavailableError, TwoTowerError
from twotower.retrieval.retriever import Retriever
from twotower.serving.copies import Copies, OwnCopies
from twotower.serving.description import Description
from twotower.serving.logs import fields, log
from twotower.serving.messages import Refused

ATTEMPTS = 5
"""Times that a folder is copied which changes meanwhile."""

WARMING = 3
"""Searches that a bundle answers before it is asked by anybody."""

LOADING_PRIORITY = 5
"""How much a thread that loads gives way to those that answer, as `nice` counts."""

Identity: TypeAlias = tuple[tuple[str, int, int, int], ...]
Loader: TypeAlias = Callable[[Path], Retriever]


class Loaded:
    """A retriever that is ready, what the page is told of it, and since when."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.description = Description(retriever)
        self.at = now()

    @property
    def version(self) -> str:
        """Version id of the bundle."""
        return self.retriever.version


class Served:
    """Keeps one bundle loaded, and replaces it by what is put at its path.

    A bundle is copied, and the copy is checked and read: nothing that is later done to the files reaches what is
    being served. The new one is warmed beside the old one; then one reference is replaced.

    Args:
        folder: Where the bundle is.
        load: Reads a bundle.
        copies: Makes the copies that are read; default: its own, which are gone when they have been read.

    Raises:
        SavedFolderError: There is none that can be served.
    """

    def __init__(self, folder: Path, load: Loader = Retriever.load, copies: Copies | None = None) -> None:
        self.folder, self._load = folder, load
        self._copies: Copies = copies or OwnCopies()
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self.last_refused: Refused | None = None
        self.swaps = self.refusals = 0
        self.current, self._tried = self._first()
        self._copies.serves(self.current.version)

    @property
    def has_others(self) -> bool:
        """Whether there are workers beside this one."""
        return not isinstance(self._copies, OwnCopies)

    def retriever(self) -> Retriever:
        """The one that answers now."""
        return self.current.retriever

    def reload(self) -> bool:
        """Serves what is at the path now; gives whether that is another bundle.

        Raises:
            TwoTowerError: It is refused, whatever went wrong with it, and the one before goes on.
        """
        with self._one_at_a_time:
            identity = identity_of(self.folder)
            try:
                loaded, self._tried = self._ready()
            except TwoTowerError as error:
                if not isinstance(error, StoreUnavailableError):  # then it is tried again
                    self._tried = identity
                self.refusals += 1
                self.last_refused = Refused(now(), str(error))
                log.warning("bundle refused", extra=fields(reason=str(error), version=self.current.version))
                raise
            changed = loaded.version != self.current.version
            if changed:
                before, self.current = self.current.version, loaded
                self._copies.serves(loaded.version)
                self.swaps += 1
                log.info("bundle swapped", extra=fields(version=loaded.version, before=before))
            return changed

    def reload_all(self) -> bool:
        """`reload`, here and then in all workers beside this one.

        Raises:
            TwoTowerError: As `reload`.
        """
        changed = self.reload()
        self._copies.tell(self.current.version)
        return changed

    def watch(self, seconds: float, only_told: bool = False) -> None:
        """Looks at the path every so many seconds, in a thread of its own, and reloads when something has changed.

        Args:
            seconds: How often.
            only_told: Reload only when another worker says so.
        """
        self._ended.clear()
        self._watcher = threading.Thread(target=self._watch, args=(seconds, only_told), name="watch", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def _first(self) -> tuple[Loaded, Identity]:
        """What is at the path; where its store is away, it waits for that, and other requests are answered."""
        try:
            return self._ready()
        except StoreUnavailableError as error:
            log.warning("store away", extra=fields(reason=str(error)))
            identity = identity_of(self.folder)
            return Loaded(self._read_copy(identity)), identity

    def _watch(self, seconds: float, only_told: bool) -> None:
        with suppress(OSError):  # where it may not, it need not
            give_way()
        while not self._ended.wait(seconds):
            try:
                identity = identity_of(self.folder)
                is_told = self._copies.is_told()
                if identity and (is_told or not only_told) and identity != self._tried:
                    self.reload()
            except TwoTowerError:
                continue  # it is logged, and tried again when the folder changes
            except BaseException as error:  # nothing ends the watch but `stop`
                log.error("failure of the watch", exc_info=error, extra=fields(kind=type(error).__name__))

    def _ready(self) -> tuple[Loaded, Identity]:
        """What is at the path, read and warmed, and the identity of the folder that it was read from."""
        for _ in range(ATTEMPTS):
            identity = identity_of(self.folder)
            try:
                retriever = self._read_copy(identity)
            except TwoTowerError:
                if identity_of(self.folder) == identity:
                    raise
                continue
            if identity_of(self.folder) == identity:
                return _warmed(retriever, self.folder), identity
        raise SavedFolderError(f"{self.folder} changed {ATTEMPTS} times while it was being read")

    def _read_copy(self, identity: Identity) -> Retriever:
        with self._copies.of(self.folder, identity) as copy:
            try:
                return self._load(copy)
            except SavedFolderError as error:
                raise SavedFolderError(str(error).replace(str(copy), str(self.folder))) from error
            except (TwoTowerError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic of a library's other side is no Exception
                raise _unusable(self.folder, error) from error


def _warmed(retriever: Retriever, folder: Path) -> Loaded:
    try:
        warm(retriever)
        return Loaded(retriever)
    except (MissingExtraError, StoreUnavailableError):
        raise
    except Exception as error:  # parts that can be read need not fit together
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: BaseException) -> SavedFolderError:
    said = str(error) if isinstance(error, TwoTowerError) else f"{type(error).__name__}: {error}"
    return SavedFolderError(f"{folder} cannot be served: {said}")


def warm(retriever: Retriever) -> None:
    """Has a retriever answer a few requests, so that the first one that somebody sends is as fast as others.

    Raises:
        TwoTowerError: It cannot.
    """
    details = retriever.details
    known = retriever.queries[details.query_id].slice(0, WARMING).to_pylist()
    for query in [*known, None]:
        retriever.recommend({} if query is None else {details.query_id: query}, 10, exclude_seen=True)
    if retriever.candidates.num_rows and retriever.store is None:  # else its embeddings would be read
        retriever.similar(retriever.candidates[details.candidate_id][0].as_py(), 1)


def identity_of(folder: Path) -> Identity:
    """What tells a folder's content from another by a look at its files; empty where there is none."""
    try:
        return tuple(
            (path.name, found.st_ino, found.st_mtime_ns, found.st_size)
            for path in sorted(folder.rglob("*"))
            if (found := path.lstat())
        )
    except OSError:
        return ()


def give_way() -> None:
    """Lets the threads that answer go before this one, where the system can do so for one thread."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_PRIORITY)


def now() -> str:
    """The time, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
