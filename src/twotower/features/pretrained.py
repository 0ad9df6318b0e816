"""Pretrained text encoders: read from a local folder, kept as plain data, pooled to one vector a text; extra `text`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from twotower.errors import ConfigError
from twotower.extras import require

ENCODERS = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra"),
    *("modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta"),
)
"""Models of transformers that are encoders of text and are made of their config alone, without loading anything."""

LOOPS = ("num_hidden_layers", "num_hidden_groups", "inner_group_num")
MOST_LAYERS = 256
"""A config with more layers, or groups of them, is not one of an encoder."""

LOADS_CODE = ("auto_map", "attn_implementation", "quantization_config")
"""Keys of a config by which transformers would look for code or kernels elsewhere."""


class Tokens:
    """Splits texts into an encoder's tokens.

    Args:
        tokenizer: What `tokenizer.json` holds.
        max_length: Tokens of a text, at most, those that mark its beginning and end included.

    Raises:
        ConfigError: It is no tokenizer, or has no place for a text's own tokens.
    """

    def __init__(self, tokenizer: str, max_length: int) -> None:
        library: Any = require("tokenizers", "text")
        try:
            self._tokenizer = library.Tokenizer.from_str(tokenizer)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_length)
        except Exception as error:  # the library raises plain exceptions
            raise ConfigError(f"tokenizer.json cannot be used with max_length={max_length}: {error}") from error

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens' ids of each text, the first `max_length` of them."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]


class MeanPooled(nn.Module):
    """An encoder, and the mean of what it gives for each of a text's tokens.

    Its dropout is off in training, too: random numbers of training are drawn by `twotower.randomness` alone.

    Args:
        encoder: A model of transformers that gives `last_hidden_state`.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # of the first token alone, which the mean does not need
        self.encoder = encoder
        self.size: int = encoder.config.hidden_size
        self.padding: int = getattr(encoder.config, "pad_token_id", None) or 0
        self.eval()

    def train(self, mode: bool = True) -> MeanPooled:
        """Stays in evaluation mode."""
        del mode
        return super().train(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors `[n, size]` of texts, given each token's id + 1, 0 after the last, `[n, length]`.

        A text without tokens is the zero vector.
        """
        is_token = tokens > 0
        ids = torch.where(is_token, tokens - 1, self.padding).long()
        attended = is_token | (torch.arange(tokens.shape[1], device=tokens.device) == 0)  # to nothing: not a number
        found = self.encoder(input_ids=ids, attention_mask=attended.long()).last_hidden_state  # [n, length, size]
        counted = is_token.unsqueeze(2).to(found.dtype)
        mean: Tensor = (found * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return mean


def read_encoder(folder: Path, max_length: int) -> tuple[MeanPooled, str, str]:
    """An encoder from a folder as Hugging Face's libraries write one. Nothing is downloaded.

    Args:
        folder: It holds `config.json`, `tokenizer.json` and `model.safetensors`, which may be in several parts.
        max_length: Tokens of a text that it has to take.

    Returns:
        The encoder, its config as JSON, and what `tokenizer.json` holds.

    Raises:
        ConfigError: A file is missing or cannot be used, or the model is no encoder of so many tokens.
        MissingExtraError: The extra `text` is not installed.
    """
    library: Any = require("transformers", "text")
    _check_files(folder)
    try:
        encoder_config((folder / "config.json").read_text(encoding="utf-8"))
        with _quiet(library):
            encoder, found = library.AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",
                dtype=torch.float32,
                output_loading_info=True,
            )
        config = msgspec.json.encode(_plain(encoder.config.to_dict())).decode()
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except Exception as error:  # of what lies in such a folder, the library may fail in any way
        raise ConfigError(f"{folder} holds no text encoder that can be used: {error}") from error
    if missing := [name for name in found["missing_keys"] if not name.startswith("pooler.")]:
        raise ConfigError(f"{folder}: the weights lack {sorted(missing)[0]} and {len(missing) - 1} others")
    pooled = MeanPooled(encoder)
    _try_out(pooled, Tokens(tokenizer, max_length), folder, max_length)
    return pooled, config, tokenizer


def encoder_config(config: str) -> Any:
    """The config of an encoder, from JSON.

    Raises:
        ValueError: It is of no model that can be used here.
    """
    settings = _plain(msgspec.json.decode(config, type=dict[str, Any]))
    if (kind := settings.get("model_type")) not in ENCODERS:
        raise ValueError(f"model_type is {kind!r}; expected one of {', '.join(ENCODERS)}")
    library: Any = require("transformers", "text")
    with _quiet(library):
        found: Any = library.AutoConfig.for_model(**settings)
    for name in LOOPS:
        if not 0 <= getattr(found, name, 0) <= MOST_LAYERS:
            raise ValueError(f"{name} is {getattr(found, name)}; expected at most {MOST_LAYERS}")
    return found


def make_encoder(config: str) -> MeanPooled:
    """An encoder by its config, with weights that mean nothing yet."""
    library: Any = require("transformers", "text")
    settings = encoder_config(config)
    with _quiet(library):
        return MeanPooled(
            library.AutoModel.from_config(
                settings, trust_remote_code=False, attn_implementation="eager", dtype=torch.float32
            )
        )


def restore_encoder(config: str, weights: bytes) -> MeanPooled:
    """An encoder by its config and its weights, as `weights_of` gives them.

    Raises:
        ValueError: The config asks for other weights; no memory was taken for them.
    """
    tensors = load(weights)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in make_encoder(config).state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("the encoder's weights are not of the shapes that its config says")
    encoder = make_encoder(config)
    encoder.load_state_dict(tensors)
    return encoder


def weights_of(encoder: MeanPooled) -> bytes:
    """The weights, as safetensors."""
    return save({name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()})


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"model={str(folder)!r} is no folder; expected a local one with config.json, tokenizer.json and "
            f"model.safetensors (nothing is downloaded: `hf download NAME --local-dir FOLDER` makes one)"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}; transformers' save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} has no .safetensors; weights in a .bin file can run code when they are read, and are refused. "
            f"Where you trust them, load them with transformers and write them with save_pretrained"
        )


def _try_out(encoder: MeanPooled, tokens: Tokens, folder: Path, max_length: int) -> None:
    """Encodes one text of as many tokens as may be read."""
    ids = tokens(["a " * max_length])[0]
    ids = (ids * max_length)[:max_length]
    try:
        with torch.no_grad():
            vector = encoder(torch.tensor([ids], dtype=torch.int32) + 1)
    except Exception as error:  # positions or tokens beyond a table, or no last_hidden_state
        raise ConfigError(f"{folder} cannot encode a text of max_length={max_length} tokens: {error}") from error
    if vector.shape != (1, encoder.size) or not bool(vector.isfinite().all()):
        raise ConfigError(f"{folder} gives no {encoder.size} finite numbers for a text of {max_length} tokens")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what names code or files elsewhere."""
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in LOADS_CODE}


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """What transformers shows while it loads is not for the user; errors are raised."""
    logs = library.logging
    verbosity, shows = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if shows:
            logs.enable_progress_bar()
