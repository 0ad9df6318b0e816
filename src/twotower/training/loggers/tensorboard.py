"""`TensorBoard`: logs metrics of a training as event files."""

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
    """Writes event files to FOLDER/NAME for `tensorboard --logdir FOLDER`; extra `tensorboard`.

    A later training of the same name replaces the curves.

    Args:
        folder: The log directory of all trainings.
        name: Name of the training and its subfolder.

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
        """Starts an event file."""
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(Path(self.folder) / _file_name(self.name)), purge_step=1)
        self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```")

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's metrics."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        del failed
        self._writer.close()


def _file_name(name: str) -> str:
    """A file name that is valid on every file system.

    Example:
        >>> _file_name("layers [64, 32]: seed 1")
        'layers [64, 32]_ seed 1'
    """
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(" .") or "_"
