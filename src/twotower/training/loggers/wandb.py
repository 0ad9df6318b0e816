"""`WandB`: logs metrics and settings of a training as a run of a Weights & Biases project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from twotower.extras import check_installed, require
from twotower.training.loggers.base import LOGGERS, Logger


@LOGGERS.register
class WandB(Logger):
    """Logs a training as a run of a Weights & Biases project: settings as config, metrics by epoch; extra `wandb`.

    Args:
        project: The project.
        folder: Where wandb keeps its files; default: wandb's own configuration.
        mode: `online`, or `offline` to upload later with `wandb sync`; default: wandb's own configuration, e.g.
            `WANDB_MODE`.
        name: Name of the run.

    Raises:
        MissingExtraError: wandb is not installed.

    Example:
        >>> Trainer(epochs=10).fit(model, train, callbacks=[WandB("retrieval")])  # doctest: +SKIP
    """

    kind = "wandb"

    def __init__(
        self,
        project: str = "twotower",
        folder: Path | str | None = None,
        mode: Literal["online", "offline"] | None = None,
        name: str = "training",
    ) -> None:
        super().__init__(name)
        check_installed("wandb", "wandb")
        self.project, self.folder, self.mode = project, None if folder is None else str(folder), mode

    def open(self, settings: Mapping[str, Any]) -> None:
        """Starts a run."""
        wandb = require("wandb", "wandb")
        self._run = wandb.init(
            project=self.project,
            name=self.name,
            dir=self.folder,
            mode=self.mode,
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's metrics."""
        self._run.log(dict(figures), step=epoch)

    def close(self, failed: bool) -> None:
        """Ends the run."""
        self._run.finish(exit_code=int(failed))
