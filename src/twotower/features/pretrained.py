"""Pretrained text encoders (extra `text`): read from a local folder, saved as plain data, mean-pooled to a vector."""

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
"""Text encoders of transformers that can be built from their config alone, without loading code."""

LAYER_COUNT_KEYS = ("num_hidden_layers", "num_hidden_groups", "inner_group_num")
MAX_LAYERS = 256
"""Refuse a config with more layers, or groups of layers."""

CODE_LOADING_KEYS = ("auto_map", "attn_implementation", "quantization_config")
"""Config keys that make transformers load code or kernels from elsewhere."""


class Tokens:
    """Splits texts into an encoder's tokens.

    Args:
        tokenizer: The contents of `tokenizer.json`.
        max_length: Maximum number of tokens per text, including those that mark its beginning and end.

    Raises:
        ConfigError: It is not a tokenizer, or `max_length` leaves no room for the text itself.
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
        """The token ids of each text, cut to `max_length`."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]


class MeanPooled(nn.Module):
    """An encoder with mean pooling over the tokens of a text.

    Its dropout is off even in training: all random numbers of training come from `twotower.randomness`.

    Args:
        encoder: A transformers model that outputs `last_hidden_state`.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # it pools the first token, which the mean does not need
        self.encoder = encoder
        self.size: int = encoder.config.hidden_size
        self.padding: int = getattr(encoder.config, "pad_token_id", None) or 0
        self.eval()

    def train(self, mode: bool = True) -> MeanPooled:
        """Stays in evaluation mode."""
        del mode
        return super().train(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors `[n, size]` of texts, given token ids + 1, padded with 0, `[n, length]`.

        A text without tokens becomes the zero vector.
        """
        is_token = tokens > 0
        ids = torch.where(is_token, tokens - 1, self.padding).long()
        # attending to nothing gives NaN
        attended = is_token | (torch.arange(tokens.shape[1], device=tokens.device) == 0)
        found = self.encoder(input_ids=ids, attention_mask=attended.long()).last_hidden_state  # [n, length, size]
        counted = is_token.unsqueeze(2).to(found.dtype)
        mean: Tensor = (found * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return mean


def read_encoder(folder: Path, max_length: int) -> tuple[MeanPooled, str, str]:
    """Reads an encoder from a folder written by Hugging Face's libraries. Nothing is downloaded.

    Args:
        folder: It holds `config.json`, `tokenizer.json` and `model.safetensors`, which may be split into parts.
        max_length: Number of tokens that the encoder must accept.

    Returns:
        The encoder, its config as JSON, and the contents of `tokenizer.json`.

    Raises:
        ConfigError: A file is missing or cannot be used, or the model cannot encode this many tokens.
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
        config = msgspec.json.encode(_without_code_keys(encoder.config.to_dict())).decode()
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except Exception as error:  # a broken folder may make the library raise anything
        raise ConfigError(f"{folder} holds no usable text encoder: {error}") from error
    if missing := [name for name in found["missing_keys"] if not name.startswith("pooler.")]:
        raise ConfigError(f"{folder}: the weights lack {sorted(missing)[0]} and {len(missing) - 1} others")
    pooled = MeanPooled(encoder)
    _check_encodes(pooled, Tokens(tokenizer, max_length), folder, max_length)
    return pooled, config, tokenizer


def encoder_config(config: str) -> Any:
    """Parses the config of an encoder from JSON.

    Raises:
        ValueError: The model is not supported.
    """
    settings = _without_code_keys(msgspec.json.decode(config, type=dict[str, Any]))
    if (kind := settings.get("model_type")) not in ENCODERS:
        raise ValueError(f"model_type is {kind!r}; expected one of {', '.join(ENCODERS)}")
    library: Any = require("transformers", "text")
    with _quiet(library):
        found: Any = library.AutoConfig.for_model(**settings)
    for name in LAYER_COUNT_KEYS:
        if not 0 <= getattr(found, name, 0) <= MAX_LAYERS:
            raise ValueError(f"{name} is {getattr(found, name)}; expected at most {MAX_LAYERS}")
    return found


def make_encoder(config: str) -> MeanPooled:
    """Builds an encoder from its config, with uninitialised weights."""
    library: Any = require("transformers", "text")
    settings = encoder_config(config)
    with _quiet(library):
        return MeanPooled(
            library.AutoModel.from_config(
                settings, trust_remote_code=False, attn_implementation="eager", dtype=torch.float32
            )
        )


def restore_encoder(config: str, weights: bytes) -> MeanPooled:
    """Builds an encoder from its config and the weights that `weights_of` returned.

    Raises:
        ValueError: The weights do not match the config; nothing is allocated before this check.
    """
    tensors = load(weights)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in make_encoder(config).state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("the encoder's weights do not have the shapes that its config gives")
    encoder = make_encoder(config)
    encoder.load_state_dict(tensors)
    return encoder


def weights_of(encoder: MeanPooled) -> bytes:
    """The weights, as safetensors."""
    return save({name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()})


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"model={str(folder)!r} is not a folder; expected a local one with config.json, tokenizer.json and "
            f"model.safetensors (nothing is downloaded: `hf download NAME --local-dir FOLDER` makes one)"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}; transformers' save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} has no .safetensors; weights in a .bin file are refused, as reading them can run code. "
            f"If you trust them, load them with transformers and write them with save_pretrained"
        )


def _check_encodes(encoder: MeanPooled, tokens: Tokens, folder: Path, max_length: int) -> None:
    """Checks that the encoder can encode a text of `max_length` tokens."""
    ids = tokens(["a " * max_length])[0]
    ids = (ids * max_length)[:max_length]
    try:
        with torch.no_grad():
            vector = encoder(torch.tensor([ids], dtype=torch.int32) + 1)
    except Exception as error:  # positions or token ids out of range, or no last_hidden_state
        raise ConfigError(f"{folder} cannot encode a text of max_length={max_length} tokens: {error}") from error
    if vector.shape != (1, encoder.size) or not bool(vector.isfinite().all()):
        raise ConfigError(f"{folder} does not give {encoder.size} finite numbers for a text of {max_length} tokens")


def _without_code_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the keys that refer to code or files elsewhere."""
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in CODE_LOADING_KEYS}


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Silences transformers' logs and progress bars while it loads; errors are raised."""
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
