"""`TextEncoder`: a text embedded by a pretrained encoder, frozen or fine-tuned."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from twotower.errors import ConfigError
from twotower.features.base import Feature, require_fitted
from twotower.features.pretrained import (
    MeanPooled,
    Tokens,
    encoder_config,
    make_encoder,
    read_encoder,
    restore_encoder,
    weights_of,
)
from twotower.features.tables import wrong_kind
from twotower.progress import opened

FloatArray = npt.NDArray[np.float32]

BATCH = 64
"""Batch size of a frozen encoder, in texts."""

CACHE_BYTES = 1 << 28
"""Cache up to this many bytes of a frozen encoder's vectors, so that a repeated text is not encoded again."""

PROGRESS_MIN_BATCHES = 20
"""Show progress from this many batches on."""


class TextEncoder(Feature):
    """A text as the mean of a pretrained encoder's token vectors, mapped linearly to `dim` numbers.

    The encoder is read from a local folder when the feature is fitted and is saved with the model, which then no longer
    needs the folder. It needs the extra `text`. An empty or missing text is the zero vector.

    A frozen encoder encodes each distinct text once, when the log is encoded, and training reads the vectors; only the
    linear map is trained. A trained encoder is part of the tower: every step runs it and updates its weights with the
    optimiser's learning rate, which must be one for fine-tuning (1e-5 to 1e-4 with AdamW).

    Args:
        column: The column to read: text.
        model: A folder with `config.json`, `tokenizer.json` and `model.safetensors`, as written by Hugging Face's
            libraries; weights in `.bin` files are refused. In a config it is relative to the config's folder.
        dim: Embedding dimension.
        trained: Train the encoder with the tower.
        max_length: Tokens read per text; the rest are ignored.

    Raises:
        ConfigError: `dim` is below 1 or `max_length` below 3.

    Example:
        >>> title = TextEncoder("title", model="encoders/minilm", dim=32)
        >>> title.width, title.trained
        (32, False)
    """

    kind = "text_encoder"
    read_as = "text, by a pretrained encoder"
    paths = ("model",)

    def __init__(
        self, column: str, model: str | Path, dim: int = 32, trained: bool = False, max_length: int = 64
    ) -> None:
        super().__init__()
        if dim < 1 or max_length < 3:
            raise ConfigError(
                f"text_encoder {column!r}: dim={dim}, max_length={max_length}; expected dim ≥ 1 and max_length ≥ 3"
            )
        self.column, self.model, self.dim, self.width = column, str(model), dim, dim
        self.trained, self.max_length = trained, max_length
        self.encoder: MeanPooled | None = None
        self.map: nn.Linear | None = None
        self._frozen: _Frozen | None = None
        self._tokens: Tokens | None = None
        self._config = self._tokenizer = ""

    def fit(self, column: pa.ChunkedArray) -> None:
        """Reads the encoder from its folder and reinitialises the linear map.

        Raises:
            ConfigError: The folder cannot be used.
            DataError: The column is not text.
            MissingExtraError: The extra `text` is not installed.
        """
        self._texts(column)
        try:
            encoder, config, tokenizer = read_encoder(Path(self.model), self.max_length)
        except ConfigError as error:
            raise ConfigError(f"text_encoder {self.column!r}: {error}") from error
        self._take(config, tokenizer, encoder.size)
        self._hold(encoder)

    def learned(self) -> pa.Table:
        """One row: the encoder's config, its tokenizer and, if it is frozen, its weights as safetensors."""
        weights = None if self._frozen is None else weights_of(self._frozen.encoder)
        columns = {"config": pa.array([self._config]), "tokenizer": pa.array([self._tokenizer])}
        return pa.table(columns | {"weights": pa.array([weights], pa.large_binary())})

    def restore(self, state: pa.Table) -> None:
        """Restores the encoder, without its folder."""
        config, tokenizer, weights = (state[name][0].as_py() for name in ("config", "tokenizer", "weights"))
        self._take(config, tokenizer, encoder_config(config).hidden_size)
        if self.trained:
            self._hold(make_encoder(config))
        elif torch.get_default_device().type != "meta":  # there only shapes of parameters count; frozen, it has none
            self._hold(restore_encoder(config, weights))

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """A frozen encoder's vectors, float32 `[N, size]`; for a trained one token ids + 1, int32 `[N, longest]`."""
        require_fitted(self, self._tokens)
        assert self._tokens is not None
        assert self.map is not None
        coded = self._texts(column).dictionary_encode()
        texts = coded.dictionary.to_pylist()
        rows = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if self._frozen is not None:
            return torch.from_numpy(self._frozen.vectors(texts, self.map.weight.device)[rows])
        ids = [found if text else [] for text, found in zip(texts, self._tokens(texts), strict=True)]
        padded = np.zeros((len(ids), max([1, *map(len, ids)])), dtype=np.int32)
        for row, found in enumerate(ids):
            padded[row, : len(found)] = np.asarray(found, dtype=np.int32) + 1
        return torch.from_numpy(padded[rows])

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds encoded texts as `[n, dim]`."""
        require_fitted(self, self.map)
        assert self.map is not None
        mapped: Tensor = self.map(encoded if self.encoder is None else self.encoder(encoded))
        return mapped

    def _texts(self, column: pa.ChunkedArray) -> pa.Array:
        """The texts stripped of surrounding white space; empty if missing."""
        if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
            raise wrong_kind(column, self.column, "text")
        texts = pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
        return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts

    def _take(self, config: str, tokenizer: str, size: int) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._tokens = Tokens(tokenizer, self.max_length)
        self.map = nn.Linear(size, self.dim, bias=False)

    def _hold(self, encoder: MeanPooled) -> None:
        assert self._tokens is not None
        if self.trained:
            self.encoder = encoder
        else:
            self._frozen = _Frozen(encoder.requires_grad_(False), self._tokens)


class _Frozen:
    """A frozen encoder with a cache of its vectors.

    It is not a submodule, so that optimisers, checkpoints and copies of the best weights do not carry weights that
    never change.
    """

    def __init__(self, encoder: MeanPooled, tokens: Tokens) -> None:
        self.encoder, self._tokens = encoder, tokens
        self._kept: dict[str, FloatArray] = {"": np.zeros(encoder.size, dtype=np.float32)}

    def vectors(self, texts: list[str], device: torch.device) -> FloatArray:
        """The vectors of distinct texts, `[N, size]`; texts not in the cache are encoded on the device."""
        new = [text for text in texts if text not in self._kept]
        found = dict(zip(new, self._encoded(new, device), strict=True)) if new else {}
        vectors = np.stack([self._kept[text] if text in self._kept else found[text] for text in texts or [""]])
        room = CACHE_BYTES // (4 * self.encoder.size) - len(self._kept)
        self._kept.update((text, found[text].copy()) for text in new[: max(0, room)])
        return vectors[: len(texts)]

    @torch.no_grad()
    def _encoded(self, texts: list[str], device: torch.device) -> FloatArray:
        """Encodes texts in batches of similar length, `[N, size]`."""
        ids = self._tokens(texts)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        found = np.empty((len(ids), self.encoder.size), dtype=np.float32)
        self.encoder.to(device)
        starts = range(0, len(order), BATCH)
        in_worker = multiprocessing.parent_process() is not None  # the parent shows the progress
        with opened(len(starts) >= PROGRESS_MIN_BATCHES and not in_worker) as display:
            report = display.reporter("Text encoder")
            report(f"{len(texts):,} texts", 0.0)  # before the first batch, which may take seconds
            for start in starts:
                rows = order[start : start + BATCH]
                padded = torch.zeros(len(rows), len(ids[rows[-1]]), dtype=torch.int32)
                for place, row in enumerate(rows):
                    padded[place, : len(ids[row])] = torch.tensor(ids[row], dtype=torch.int32) + 1
                found[rows] = self.encoder(padded.to(device)).cpu().numpy()
                report(f"{len(texts):,} texts", (start + len(rows)) / len(texts))
        return found
