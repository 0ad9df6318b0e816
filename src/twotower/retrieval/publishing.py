"""Bundles whose candidates are searched in a store: publish the catalogue, and change the store's address."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import msgspec

from twotower.errors import ConfigError, StoreVersionError
from twotower.retrieval.building import measured_queries
from twotower.retrieval.bundle import Bundle, with_version
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.requests import Requests
from twotower.retrieval.stores.milvus import Milvus
from twotower.retrieval.stores.pgvector import PgVector
from twotower.retrieval.stores.store import STORES, Publication, StoreSettings


def with_store(
    bundle: Bundle, settings: StoreSettings, threshold: float | None, served: frozenset[str] = frozenset()
) -> Bundle:
    """Publish the bundle's catalogue in a store, and return a bundle that searches there.

    Args:
        bundle: The bundle, with an exact index; it keeps its embeddings for requests that do not use the store, such
            as similar candidates.
        settings: Settings of the store.
        threshold: The required recall of a search; None for any.
        served: Version ids of towers whose vectors must stay in the store, as a service still searches them.

    Raises:
        ConfigError: The bundle has an approximate index.
        DataError: The store cannot hold a value.
        MissingExtraError: The library of the store is not installed.
        ParityError: A search finds too little of what exact search finds; the store is unchanged.
        StoreUnavailableError: The store is unreachable.
    """
    if not isinstance(bundle.index, ExactIndex):
        raise ConfigError(f"the bundle has the index {bundle.index.kind}; expected exact, as the store does the search")
    kept, parity = settings.publish(_publication(bundle, threshold, served))
    return with_version(replace(bundle, details=msgspec.structs.replace(bundle.details, store=kept, parity=parity)))


def republish(bundle: Bundle, served: frozenset[str] = frozenset()) -> None:
    """Publish the bundle's catalogue again if its store no longer has vectors of its towers.

    Args:
        bundle: The bundle; one without a store needs nothing.
        served: Version ids of towers whose vectors must stay in the store.

    Raises:
        StoreUnavailableError: The store is unreachable.
    """
    settings = bundle.details.store
    if settings is None:
        return
    with closing(settings.open(bundle.details.towers)) as store:
        try:
            len(store)
        except StoreVersionError:
            settings.publish(_publication(bundle, None, served))


def _publication(bundle: Bundle, threshold: float | None, served: frozenset[str]) -> Publication:
    details = bundle.details
    requests = Requests(bundle.model, bundle.queries, details.query_id, details.time, details.latest_time)
    queries = measured_queries(bundle.model, requests)
    embeddings = bundle.index.embeddings
    return Publication(bundle.candidates, embeddings, details.candidate_id, details.towers, queries, threshold, served)


def at_address(bundle: Bundle, address: str) -> Bundle:
    """The bundle with its store at another address; its version stays the same.

    Raises:
        ConfigError: It has no store, or one of another kind.
    """
    settings: Any = bundle.details.store
    if settings is None:
        raise ConfigError(
            "the bundle has no store, so there is no address to change; add a store with twotower bundle --store"
        )
    if not isinstance(store_at(address), type(settings)):
        raise ConfigError(f"store {address!r} is not the same kind as the bundle's store, {settings.address!r}")
    moved: StoreSettings = msgspec.structs.replace(settings, address=address)
    return replace(bundle, details=msgspec.structs.replace(bundle.details, store=moved))


def store_at(text: str, name: str | None = None) -> StoreSettings:
    """Store settings from an address, or from a JSON object with a `kind`.

    Args:
        text: `postgresql://…`, `milvus://…`, a path that ends in `.db`, or a JSON object.
        name: Name of the store within the database; default: the object's, or `candidates`.

    Raises:
        ConfigError: It is none of these, or contains a password.

    Example:
        >>> store_at("postgresql://db/shop", "movies").name
        'movies'
    """
    given: dict[str, Any] = {} if name is None else {"name": name}
    if text.startswith("{"):
        try:
            settings: StoreSettings = STORES.make(msgspec.json.decode(text, type=dict[str, Any]) | given)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"the store is not a JSON object of settings: {error}") from error
        return settings
    if text.startswith(("postgresql://", "postgres://")):
        return PgVector(text, **given)
    if text.endswith(".db") or text.startswith(("milvus://", "milvus+tls://")):
        return Milvus(text, **given)
    shown = text.rpartition("@")[2]  # the part before it may contain a password
    raise ConfigError(f"store {shown!r}; expected postgresql://…, milvus://… or a path that ends in .db")
