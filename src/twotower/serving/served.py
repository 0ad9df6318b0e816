"""`Served`: the bundle being served, and how it is replaced."""

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
from twotower.serving.answers import Refused
from twotower.serving.copies import Copies, PrivateCopies
from twotower.serving.description import Description
from twotower.serving.logs import fields, log

ATTEMPTS = 5
"""Give up after copying a folder this many times if it changes during every copy."""

WARMUP_QUERIES = 3
"""Search for this many queries before a bundle is served."""

LOADING_PRIORITY = 5
"""The `nice` value of the loading thread, so that answering threads take precedence."""

Identity: TypeAlias = tuple[tuple[str, int, int, int], ...]
Loader: TypeAlias = Callable[[Path], Retriever]


class Loaded:
    """A ready retriever, its description for the page, and when it was loaded."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.description = Description(retriever)
        self.at = now()

    @property
    def version(self) -> str:
        """Version id of the bundle."""
        return self.retriever.version


class Served:
    """Keeps one bundle loaded, and replaces it when a new one appears at its path.

    A bundle is copied, and the copy is checked and loaded, so later changes to the files do not affect what is being
    served. The new bundle is warmed up while the old one still answers; then a single reference is swapped.

    Args:
        folder: The bundle's folder.
        load: Loads a bundle.
        copies: Makes the copies to load; default: private ones, which are deleted once loaded.

    Raises:
        SavedFolderError: There is no bundle that can be served.
    """

    def __init__(self, folder: Path, load: Loader = Retriever.load, copies: Copies | None = None) -> None:
        self.folder, self._load = folder, load
        self._copies: Copies = copies or PrivateCopies()
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self.last_refused: Refused | None = None
        self.swaps = self.refusals = 0
        self.current, self._tried = self._first()
        self._copies.announce(self.current.version)

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return not isinstance(self._copies, PrivateCopies)

    def retriever(self) -> Retriever:
        """The retriever being served."""
        return self.current.retriever

    def reload(self) -> bool:
        """Loads the bundle that is now at the path and serves it; returns whether it is a different one.

        Raises:
            TwoTowerError: The new bundle is refused, for whatever reason; the previous one stays in service.
        """
        with self._one_at_a_time:
            identity = identity_of(self.folder)
            try:
                loaded, self._tried = self._ready()
            except TwoTowerError as error:
                if not isinstance(error, StoreUnavailableError):  # retry if only the store was unavailable
                    self._tried = identity
                self.refusals += 1
                self.last_refused = Refused(now(), str(error))
                log.warning("bundle refused", extra=fields(reason=str(error), version=self.current.version))
                raise
            changed = loaded.version != self.current.version
            if changed:
                before, self.current = self.current.version, loaded
                self._copies.announce(loaded.version)
                self.swaps += 1
                log.info("bundle swapped", extra=fields(version=loaded.version, before=before))
            return changed

    def reload_all(self) -> bool:
        """`reload`, first here and then in all other workers.

        Raises:
            TwoTowerError: As `reload`.
        """
        changed = self.reload()
        self._copies.request_reload(self.current.version)
        return changed

    def watch(self, seconds: float, on_request_only: bool = False) -> None:
        """Starts a thread that checks the path at an interval and reloads when something has changed.

        Args:
            seconds: The interval.
            on_request_only: Reload only when another worker requests it.
        """
        self._ended.clear()
        self._watcher = threading.Thread(target=self._watch, args=(seconds, on_request_only), name="watch", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stops watching."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def _first(self) -> tuple[Loaded, Identity]:
        """The bundle at the path; if its store is unavailable, load it anyway, to serve requests without the store."""
        try:
            return self._ready()
        except StoreUnavailableError as error:
            log.warning("store unavailable", extra=fields(reason=str(error)))
            identity = identity_of(self.folder)
            return Loaded(self._read_copy(identity)), identity

    def _watch(self, seconds: float, on_request_only: bool) -> None:
        with suppress(OSError):  # lower priority is optional
            give_way()
        while not self._ended.wait(seconds):
            try:
                identity = identity_of(self.folder)
                is_reload_requested = self._copies.is_reload_requested()
                if identity and (is_reload_requested or not on_request_only) and identity != self._tried:
                    self.reload()
            except TwoTowerError:
                continue  # already logged; retried when the folder changes
            except BaseException as error:  # only `stop` ends the watch
                log.error("watch failed", exc_info=error, extra=fields(kind=type(error).__name__))

    def _ready(self) -> tuple[Loaded, Identity]:
        """The bundle at the path, loaded and warmed up, and the identity of the folder it was loaded from."""
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
            except BaseException as error:  # a panic in a native library is not an Exception
                raise _unusable(self.folder, error) from error


def _warmed(retriever: Retriever, folder: Path) -> Loaded:
    try:
        warm(retriever)
        return Loaded(retriever)
    except (MissingExtraError, StoreUnavailableError):
        raise
    except Exception as error:  # parts that can be read may still not fit together
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: BaseException) -> SavedFolderError:
    reason = str(error) if isinstance(error, TwoTowerError) else f"{type(error).__name__}: {error}"
    return SavedFolderError(f"{folder} cannot be served: {reason}")


def warm(retriever: Retriever) -> None:
    """Lets a retriever answer a few requests, so that the first real one is as fast as later ones.

    Raises:
        TwoTowerError: The retriever cannot answer.
    """
    details = retriever.details
    known = retriever.queries[details.query_id].slice(0, WARMUP_QUERIES).to_pylist()
    for query in [*known, None]:
        retriever.recommend({} if query is None else {details.query_id: query}, 10, exclude_seen=True)
    if retriever.candidates.num_rows and retriever.store is None:  # a store's bundle may never read its embeddings
        retriever.similar(retriever.candidates[details.candidate_id][0].as_py(), 1)


def identity_of(folder: Path) -> Identity:
    """Identity of a folder's content, from its files' metadata; empty if the folder does not exist."""
    try:
        return tuple(
            (path.name, found.st_ino, found.st_mtime_ns, found.st_size)
            for path in sorted(folder.rglob("*"))
            if (found := path.lstat())
        )
    except OSError:
        return ()


def give_way() -> None:
    """Lowers this thread's priority below the answering threads, if the system supports it per thread."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_PRIORITY)


def now() -> str:
    """The current time, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
