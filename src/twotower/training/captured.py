"""`CapturedStep`: a step of training recorded once in a CUDA graph and replayed, so that launches do not bound it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from twotower.data.log import Log, require_in_memory
from twotower.errors import ConfigError, TwoTowerError
from twotower.model.losses import BuiltInLoss, InBatchSoftmax
from twotower.model.softmax import DEVICE_LOGITS, LEAST_ROWS
from twotower.model.two_tower import TwoTower
from twotower.training.batches import Part
from twotower.training.lazy import LazyAdagrad, LazyAdamW
from twotower.training.settings import TrainerSettings

Step = Callable[[Part, Tensor], tuple[Tensor, Tensor | int]]

WARM_UP = 3
"""Steps before the recording, in which libraries and the optimiser make what they keep."""

MOST_CANDIDATES = DEVICE_LOGITS // LEAST_ROWS
"""Candidates up to which the softmax works on whole rows; of tiles, the host has to know what lies where."""


class CapturedStep:
    """A step that is recorded in a CUDA graph and replayed: one launch in place of hundreds.

    What is recorded are kernels and addresses. So every step has the same shapes, its random numbers are those of the
    device's own generator, and what changes from step to step lies at fixed addresses: the rows of the batch, and the
    rates of the optimiser, which become tensors. A smaller batch, as the last of an epoch may be, runs as it is. So do
    all steps on devices other than CUDA ones.

    Args:
        optimizer: What the step updates with.
        batch_size: Events of the steps to record.
        device: Of the model and of the events.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, batch_size: int, device: torch.device) -> None:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
        self.optimizer, self.device = optimizer, device
        self.rows = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.warm_up = WARM_UP
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Step, part: Part, rows: Tensor) -> tuple[Tensor, Tensor | int]:
        """Does a step on the events of a part at `rows`; the part and the step have to be the same every time.

        Returns:
            What the step gives, tensors that the next call overwrites.

        Raises:
            TwoTowerError: The step does something that cannot be recorded, such as waiting for a result.
        """
        if self.stream is None or len(rows) < len(self.rows):
            return step(part, rows)
        if self.warm_up > 0:
            self.warm_up -= 1
            return self._beside(self.stream, step, part, rows)
        if self.graph is None:
            self.graph = self._recorded(self.stream, step, part)
        self.rows.copy_(rows)
        self.graph.replay()
        return self.given

    def _beside(self, stream: torch.cuda.Stream, step: Step, part: Part, rows: Tensor) -> tuple[Tensor, Tensor | int]:
        """Does a step as it is, on the stream of the recording."""
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            given = step(part, rows)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return given

    def _recorded(self, stream: torch.cuda.Stream, step: Step, part: Part) -> torch.cuda.CUDAGraph:
        """Records a step without doing it."""
        graph = torch.cuda.CUDAGraph()
        self._set_capturable(True)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream):
                self.given = step(part, self.rows)
        except RuntimeError as error:
            raise TwoTowerError(f"a step of training cannot be captured: {error}; expected capture=False") from error
        finally:
            self._set_capturable(False)
        return graph

    def _set_capturable(self, capturable: bool) -> None:
        """Tells AdamW that it is recorded, which it asks for; elsewhere it would warn that it is not."""
        for group in self.optimizer.param_groups:
            group["capturable"] = capturable


def check_capture(settings: TrainerSettings, model: TwoTower, train: Log, optimizer: torch.optim.Optimizer) -> None:
    """Refuses what has no fixed shapes or needs the host in every step.

    Raises:
        ConfigError: What it is, and what was expected.
    """
    loss = settings.loss
    in_batch = isinstance(loss, InBatchSoftmax)
    require_in_memory(train, "capture=True", "capture=False")
    if isinstance(loss, BuiltInLoss) and loss.mask_known:
        raise ConfigError("capture=True with mask_known=True, which looks pairs up on the host; expected False")
    if isinstance(loss, InBatchSoftmax) and loss.memory > 0:
        raise ConfigError(f"capture=True with memory={loss.memory}, which grows from step to step; expected 0")
    if isinstance(optimizer, LazyAdagrad | LazyAdamW):
        raise ConfigError(
            f"capture=True with tables={settings.optimizer.tables!r}, which updates as many rows as a batch has; "
            f"expected tables='dense'"
        )
    candidates = loss.embedded(settings.batch_size, train.candidates.num_rows)
    if candidates > MOST_CANDIDATES:
        raise ConfigError(f"capture=True with a softmax over {candidates:,} candidates; expected {MOST_CANDIDATES:,}")
    if in_batch and any(isinstance(module, nn.BatchNorm1d) for module in model.candidate.modules()):
        raise ConfigError(
            "capture=True with norm='batch' in the candidate tower, whose moments would count the candidates that fill "
            "a batch up; expected another norm or a full softmax"
        )
