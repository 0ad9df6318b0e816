"""Optional libraries: imported on demand; if one is missing, the error gives its `pip install` line."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from twotower.errors import MissingExtraError

EXTRAS: dict[str, dict[str, str]] = {
    "ann": {"faiss": "faiss-cpu"},
    "baselines": {"implicit": "implicit", "threadpoolctl": "threadpoolctl"},
    "large": {"duckdb": "duckdb"},
    "milvus": {"pymilvus": "pymilvus", "milvus_lite": "milvus-lite"},
    "mlflow": {"mlflow": "mlflow-skinny", "alembic": "alembic", "sqlalchemy": "sqlalchemy"},
    "onnx": {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
    "pgvector": {"psycopg": "psycopg"},
    "serve": {
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "httptools": "httptools",
        "prometheus_client": "prometheus-client",
    },
    "tensorboard": {"tensorboard": "tensorboard"},
    "text": {"transformers": "transformers", "tokenizers": "tokenizers"},
    "tune": {"optuna": "optuna", "tomli_w": "tomli-w"},
    "wandb": {"wandb": "wandb"},
}
"""For each extra: its modules, and the distribution that provides each."""


def require(module: str, extra: str) -> ModuleType:
    """Imports a library that only an extra of twotower installs.

    Args:
        module: The module, such as `implicit.cpu.als`.
        extra: The extra that installs it, such as `baselines`.

    Raises:
        MissingExtraError: It is not installed, or cannot be imported.

    Example:
        >>> require("no_such_module", "baselines")
        Traceback (most recent call last):
        twotower.errors.MissingExtraError: no_such_module is not installed: pip install 'twotower[baselines]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{module} is not installed: pip install 'twotower[{extra}]'") from error


def check_installed(module: str, extra: str) -> None:
    """Checks that an optional library is installed, without importing it.

    Args:
        module: The library's module.
        extra: The extra that installs it.

    Raises:
        MissingExtraError: It is not installed.

    Example:
        >>> check_installed("math", "baselines")
    """
    if find_spec(module) is None:
        raise MissingExtraError(f"{module} is not installed: pip install 'twotower[{extra}]'")
