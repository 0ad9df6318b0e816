"""`TensorBoard`: a training's figures as event files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.extras import check_installed, require
from twotower.training.loggers.base import LOGGERS, Logger


@LOGGERS.register
class TensorBoard(Logger):
    """Writes event files to FOLDER/NAME, which `tensorboard --logdir FOLDER` shows; extra `tensorboard`.

    A training of the same name replaces the curves of the one before.

    Args:
        folder: The folder of all trainings.
        name: The training's folder in it.

    Raises:
        MissingExtraError: TensorBoard is not installed.

    Example:
        >>> Trainer(epochs=10).fit(model, train, callbacks=[TensorBoard("logs")])  # doctest: +SKIP
    """

    kind = "tensorboard"

    def __init__(self, folder: Path | str, name: str = "training") -> None:
        super().__init__(name)
        check_installed("tensorboard", "tensorboard")
        self.folder = str(folder)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begins an event file."""
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(Path(self.folder) / _file_name(self.name)), purge_step=1)
        self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```")

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's figures."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Ends the file."""
        del failed
        self._writer.close()


def _file_name(name: str) -> str:
    """A name that every file system takes.

    Example:
        >>> _file_name("layers [64, 32]: seed 1")
        'layers [64, 32]_ seed 1'
    """
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(" .") or "_"
