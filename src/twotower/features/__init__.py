"""Features: columns turned into numbers that a tower can use, one module a kind."""

from twotower.features.base import Feature, feature_from_settings
from twotower.features.bucketized import Bucketized
from twotower.features.category import Category
from twotower.features.normalized import Normalized
from twotower.features.text import Text

__all__ = ["Bucketized", "Category", "Feature", "Normalized", "Text", "feature_from_settings"]
