"""Features turn columns into numbers that a tower can use, one module per kind."""

from twotower.features.activity import Activity
from twotower.features.base import Feature, feature_from_settings
from twotower.features.bucketized import Bucketized
from twotower.features.categories import Categories
from twotower.features.category import Category
from twotower.features.cyclic import Cyclic
from twotower.features.elapsed import Elapsed
from twotower.features.hashed import Hashed
from twotower.features.history import History
from twotower.features.normalized import Normalized
from twotower.features.text import Text
from twotower.features.text_encoder import TextEncoder
from twotower.features.unified import Unified
from twotower.features.vector import Vector

__all__ = [
    "Activity",
    "Bucketized",
    "Categories",
    "Category",
    "Cyclic",
    "Elapsed",
    "Feature",
    "Hashed",
    "History",
    "Normalized",
    "Text",
    "TextEncoder",
    "Unified",
    "Vector",
    "feature_from_settings",
]
