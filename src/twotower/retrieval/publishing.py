"""Bundles whose candidates are searched in a store: putting them there, and finding them at another address."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from twotower.errors import ConfigError
from twotower.retrieval.bundle import Bundle, with_version
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.parity import QUERIES
from twotower.retrieval.requests import Requests
from twotower.retrieval.stores.milvus import Milvus
from twotower.retrieval.stores.pgvector import PgVector
from twotower.retrieval.stores.store import STORES, Publication, StoreSettings


def with_store(bundle: Bundle, settings: StoreSettings, threshold: float | None) -> Bundle:
    """The bundle, its catalogue published in a store, where it is searched from now on.

    Args:
        bundle: The bundle, with an exact index; it keeps the embeddings for what the store is not asked, such as
            similar candidates.
        settings: Where the store is.
        threshold: The least recall of a search; None for any.

    Raises:
        ConfigError: The bundle has an approximate index.
        DataError: The store cannot keep a value.
        MissingExtraError: The library of the store is not installed.
        ParityError: A search finds too little of what exact search finds; the store is as it was.
        StoreUnavailableError: The store is away.
    """
    if not isinstance(bundle.index, ExactIndex):
        raise ConfigError(f"the bundle has the index {bundle.index.kind}; expected exact with a store, which searches")
    details = bundle.details
    requests = Requests(bundle.model, bundle.queries, details.query_id, details.time, details.latest_time)
    known = requests.queries.num_rows
    rows = np.sort(np.random.default_rng(0).permutation(known)[:QUERIES]).tolist()
    with torch.no_grad():
        queries = bundle.model.query_vectors(requests.encode([{}] * len(rows), rows))
    embeddings = bundle.index.embeddings
    publication = Publication(bundle.candidates, embeddings, details.candidate_id, details.towers, queries, threshold)
    kept, parity = settings.publish(publication)
    return with_version(replace(bundle, details=msgspec.structs.replace(details, store=kept, parity=parity)))


def at_address(bundle: Bundle, address: str) -> Bundle:
    """The bundle, its store at another address; it keeps its version.

    Raises:
        ConfigError: It has no store, or one of another kind.
    """
    settings: Any = bundle.details.store
    if settings is None:
        raise ConfigError(
            "the bundle has no store whose address could be another; make one with twotower bundle --store"
        )
    if not isinstance(store_at(address), type(settings)):
        raise ConfigError(f"store {address!r} is of another kind than the bundle's, at {settings.address!r}")
    moved: StoreSettings = msgspec.structs.replace(settings, address=address)
    return replace(bundle, details=msgspec.structs.replace(bundle.details, store=moved))


def store_at(text: str, name: str | None = None) -> StoreSettings:
    """The settings of a store by its address, or as a JSON object with its `kind`.

    Args:
        text: `postgresql://…`, `milvus://…`, a path that ends in `.db`, or a JSON object.
        name: Which store of the database; default: as the object says, or `candidates`.

    Raises:
        ConfigError: It is none of these, or holds a password.

    Example:
        >>> store_at("postgresql://db/shop", "movies").name
        'movies'
    """
    given: dict[str, Any] = {} if name is None else {"name": name}
    if text.startswith("{"):
        try:
            settings: StoreSettings = STORES.make(msgspec.json.decode(text, type=dict[str, Any]) | given)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"the store is no JSON object with settings: {error}") from error
        return settings
    if text.startswith(("postgresql://", "postgres://")):
        return PgVector(text, **given)
    if text.endswith(".db") or text.startswith(("milvus://", "milvus+tls://")):
        return Milvus(text, **given)
    shown = text.rpartition("@")[2]  # what is before may be a password
    raise ConfigError(f"store {shown!r}; expected postgresql://…, milvus://… or a path that ends in .db")
