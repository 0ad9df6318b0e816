"""Candidate stores outside the process, PostgreSQL with pgvector and Milvus, and the same interface over an index."""

from twotower.retrieval.stores.local import LocalStore
from twotower.retrieval.stores.milvus import Milvus
from twotower.retrieval.stores.pgvector import PgVector
from twotower.retrieval.stores.store import STORES, Found, Publication, Store, StoreSettings

__all__ = ["STORES", "Found", "LocalStore", "Milvus", "PgVector", "Publication", "Store", "StoreSettings"]
