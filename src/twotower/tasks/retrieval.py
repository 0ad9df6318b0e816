"""`Retrieval`: finds the candidate that a query chooses from the whole catalogue, the main task of two-tower models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from twotower.arguments import Follows, Settings
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.evaluation.metrics import Metrics
from twotower.evaluation.task_scores import TaskEvaluation
from twotower.model.heads import Head, HeadModule
from twotower.model.losses import BoundLoss, BuiltInLoss, InBatchSoftmax, Loss
from twotower.model.two_tower import TwoTower
from twotower.progress import ReportStep, no_report
from twotower.tasks.base import TASKS, BoundTask, TaskLoss
from twotower.tasks.checks import check_task_name
from twotower.tasks.step import Step

if TYPE_CHECKING:
    AnyLoss = Loss
else:
    AnyLoss = Annotated[BuiltInLoss, Follows(Loss)]


@TASKS.register
class Retrieval(Settings, frozen=True, kw_only=True, tag="retrieval", tag_field="kind"):
    """Each event is a choice of one candidate from the catalogue, scored by the dot product of both embeddings.

    It is measured by ranks over the whole catalogue, like models without tasks.

    Attributes:
        loss: The softmax loss; None uses that of the `Trainer`.
        weight: Weight of its loss among those of other tasks.
        name: Name in histories.

    Example:
        >>> Retrieval(weight=0.5).title
        'retrieval'
    """

    loss: AnyLoss | None = None
    weight: float = 1.0
    name: str = "retrieval"

    def check(self) -> None:
        """Refuses values out of range."""
        check_task_name(self.name, self.weight)

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    @property
    def head(self) -> Head | None:
        """None, as it uses the towers' embeddings."""
        return None

    @property
    def column(self) -> str | None:
        """None, as every event is a choice."""
        return None

    @property
    def grouping(self) -> None:
        """None, as each event is read by itself."""
        return None

    @property
    def metric(self) -> str:
        """MRR; other metrics of ranks are in their own tables."""
        return "mrr"

    def bind(self, train: Log) -> BoundTask:
        """Binds the task to its training data."""
        loss = InBatchSoftmax() if self.loss is None else self.loss
        return _Bound(loss.bind(train), is_mean=loss.reduction == "mean")

    def start(self, head: HeadModule, train: Log) -> None:
        """Does nothing, as it has no head."""

    def measured(self, events: Dataset, train: Log) -> Callable[[TwoTower], Metrics]:
        """Raises ConfigError; use `twotower.evaluation.Validation` to measure ranks."""
        del events, train
        raise ConfigError("retrieval is measured by ranks; expected evaluate(…)")

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """Raises ConfigError; use `twotower.evaluate` to measure ranks."""
        del model, test, train, baselines, step
        raise ConfigError("retrieval is measured by ranks; expected evaluate(…)")


class _Bound:
    def __init__(self, loss: BoundLoss, is_mean: bool) -> None:
        self.loss, self.is_mean = loss, is_mean

    def __call__(self, step: Step) -> TaskLoss:
        value = self.loss(step.model.interests_of(step.queries.vectors), step.batch, step.embed_candidates)
        weights = step.batch.weights
        weight = float(len(step.rows)) if weights is None else weights.sum()
        return TaskLoss(value, value.detach() * weight if self.is_mean else value.detach(), weight)
