"""Test suites for implementations of twotower's protocols. The built-in ones pass them, and your own should too.

Each suite is a function to call in your own tests; it raises an `AssertionError` that says what is wrong. Suites that
need data use `small_log()`, which is simulated.
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
