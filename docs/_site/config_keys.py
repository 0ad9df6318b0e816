"""Generates the reference of config keys from the structs that parse them and their docstrings."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from command_line import cell

from twotower.docstrings import documented
from twotower.features.base import FEATURES
from twotower.model.losses import LOSSES
from twotower.model.rerank import Rerank
from twotower.recipes.config import Config, DataConfig, ModelConfig, SimulatedConfig, SplitConfig
from twotower.training.optimizers import Adagrad, AdamW, Constant, Cosine
from twotower.training.settings import EarlyStopping
from twotower.training.trainer import Trainer

TABLES: tuple[tuple[str, type], ...] = (
    ("The top of the file", Config),
    ("rerank", Rerank),
    ("[data]", DataConfig),
    ("[data.simulated]", SimulatedConfig),
    ("[split]", SplitConfig),
    ("[model]", ModelConfig),
    ("[training]", Trainer),
    ("[training.early_stopping]", EarlyStopping),
    ('[training.optimizer] kind = "adamw"', AdamW),
    ('[training.optimizer] kind = "adagrad"', Adagrad),
    ('[training.schedule] kind = "constant"', Constant),
    ('[training.schedule] kind = "cosine"', Cosine),
)


def config_keys_page() -> str:
    """One table per struct, loss and feature."""
    parts = [
        "# Config keys",
        "Every key of a config, with its default. Unknown keys are errors. "
        "[Configs](configs.md) explains how they work together.",
    ]
    for title, kind in TABLES:
        parts += [f"## {title}", _first_paragraph(kind), _table(kind)]
    parts += ["## Losses", "The kinds of `[training.loss]`."]
    for kind in sorted(LOSSES):
        parts += [f"### `{kind}`", _first_paragraph(LOSSES[kind]), _table(LOSSES[kind])]
    parts += ["## Features", "The kinds of `model.query` and `model.candidate`."]
    for kind in sorted(FEATURES):
        parts += [f"### `{kind}`", _first_paragraph(FEATURES[kind]), _table(FEATURES[kind])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _first_paragraph(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


def _defaults(kind: type) -> list[tuple[str, Any]]:
    if issubclass(kind, msgspec.Struct):
        return [
            (one.name, one.default_factory if one.default is msgspec.NODEFAULT else one.default)
            for one in msgspec.structs.fields(kind)
        ]
    parameters = list(inspect.signature(kind).parameters.values())
    return [(one.name, one.default) for one in parameters]


def _table(kind: type) -> str:
    says = documented(kind)
    rows = [f"| `{name}` | {_written(default)} | {cell(says.get(name, ''))} |" for name, default in _defaults(kind)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) if rows else ""


def _written(value: Any) -> str:
    """Formats a default value as in TOML."""
    match value:
        case inspect.Parameter.empty | msgspec.NODEFAULT:
            return "required"
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case str() | int() | float():
            return f"`{msgspec.json.encode(value).decode()}`"
        case tuple() | list() if all(isinstance(one, str | int | float) for one in value):
            return f"`{msgspec.json.encode(value).decode()}`"
        case msgspec.Struct() if (tag := type(value).__struct_config__.tag) is not None:
            return f'`kind = "{tag}"`'
        case _:
            return ""
