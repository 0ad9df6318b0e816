"""Retrieval: from a trained model to recommendations."""

from twotower.retrieval.answers import Answer, Recommendation
from twotower.retrieval.approximate import ApproximateIndex, Hnsw
from twotower.retrieval.bundle import Details
from twotower.retrieval.editing import editing
from twotower.retrieval.exact import Exact, ExactIndex
from twotower.retrieval.index import INDEXES, Hits, Index, IndexSettings
from twotower.retrieval.notes import Curve, Notes, StudyNote
from twotower.retrieval.parity import Parity
from twotower.retrieval.retriever import Retriever
from twotower.retrieval.stores import STORES, Milvus, PgVector, Store, StoreSettings
from twotower.retrieval.triton import write_triton

__all__ = [
    "INDEXES",
    "STORES",
    "Answer",
    "ApproximateIndex",
    "Curve",
    "Details",
    "Exact",
    "ExactIndex",
    "Hits",
    "Hnsw",
    "Index",
    "IndexSettings",
    "Milvus",
    "Notes",
    "Parity",
    "PgVector",
    "Recommendation",
    "Retriever",
    "Store",
    "StoreSettings",
    "StudyNote",
    "editing",
    "write_triton",
]
