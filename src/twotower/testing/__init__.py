"""Suites that implementations of a protocol have to pass: those of the package do, and one of your own should.

Each is a function that raises an `AssertionError` that says what is wrong; call it in a test of your own. Data where a
suite needs some is `small_log()`, simulated.
"""

from twotower.testing.features import check_feature
from twotower.testing.indexes import check_index
from twotower.testing.logs import small_log
from twotower.testing.losses import check_loss
from twotower.testing.scorers import check_baseline, check_metric
from twotower.testing.stores import check_store
from twotower.testing.tasks import check_head, check_task
from twotower.testing.towers import check_model, check_tower

__all__ = [
    "check_baseline",
    "check_feature",
    "check_head",
    "check_index",
    "check_loss",
    "check_metric",
    "check_model",
    "check_store",
    "check_task",
    "check_tower",
    "small_log",
]
