"""Running notebooks in kernels that are forked from the warm server of `commands`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from commands import FORKED_PYTHON, RUN, connect


class WarmKernelManager(AsyncKernelManager):
    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, str(FORKED_PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")


def run_notebook(notebook: Any, folder: Path) -> None:
    """Runs all cells in a folder; their outputs are added to the notebook."""
    client = NotebookClient(
        notebook, timeout=300, kernel_manager_class=WarmKernelManager, resources={"metadata": {"path": folder}}
    )
    connect()  # otherwise the server would end with each kernel
    with patch.dict(os.environ, {"PYTEST_XDIST_TESTRUNUID": RUN}):
        client.execute()
