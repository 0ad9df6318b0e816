"""Retrieval: from a trained model to recommendations."""

from twotower.retrieval.exact import ExactIndex, Hits
from twotower.retrieval.retriever import Recommendation, Retriever

__all__ = ["ExactIndex", "Hits", "Recommendation", "Retriever"]
