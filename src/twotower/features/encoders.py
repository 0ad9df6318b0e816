"""Encoders of histories: each class turns a window of items around an event into one vector."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from twotower.features.lookups import embed, embed_mean, embed_sum
from twotower.features.record import PADDING

Encoder = Literal["kernels", "totals", "summaries", "mean", "gru", "attention"]

KERNELS = 4
RECENT_ITEMS = 3
"""`summaries` averages this many of the latest items."""

TOTALS_GAIN = 2.0
"""Factor of `totals`, chosen on validation parts of logs without times: small inputs are learned slowly."""


@dataclass(frozen=True)
class Window:
    """The items near an event, nearest first on each side.

    Attributes:
        items: Rows of the item table, `[n, slots]`.
        gaps: Bucket of the time between the event and each item, `[n, slots]`.
        present: Which slots hold an item, `[n, slots]`.
    """

    items: Tensor
    gaps: Tensor
    present: Tensor


class WindowEncoder(nn.Module):
    """Encodes a window as a vector of `width` numbers.

    Attributes:
        width: Size of the vector.
        means: Of how many means of items, concatenated, the vector consists; 0 if it is something else.
    """

    width: int
    means: int = 0

    @abstractmethod
    def reset_parameters(self) -> None:
        """Reinitialises the parameters, drawing from the current random state."""

    @abstractmethod
    def forward(self, window: Window, table: Tensor) -> Tensor:
        """Encodes the windows of n events as `[n, width]`, given the item table `[rows, dim]`; zeros if empty."""


class Kernels(WindowEncoder):
    """Several weighted means, concatenated, with weights exp(place + gap) learned per place and per gap.

    They start out different: from the plain mean to one that decays fast with the gap in time.
    """

    means = KERNELS

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        super().__init__()
        self.width = KERNELS * dim
        self.place = nn.Parameter(torch.empty(slots, KERNELS))
        self.gap = nn.Parameter(torch.empty(gaps, KERNELS))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Places start nearly equal; gaps decay by 0, 0.15, 0.3 and 0.45 per bucket."""
        with torch.no_grad():
            self.place.normal_(std=0.01)
            self.gap.copy_(-0.15 * torch.arange(len(self.gap))[:, None] * torch.arange(KERNELS))
            self.gap[-1] = 0.0  # an unknown gap

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, KERNELS · dim]`."""
        absent = self.gap.new_full((1, KERNELS), torch.finfo(self.gap.dtype).min / 2)  # its weight is exactly zero
        gaps = window.gaps.masked_fill(~window.present, len(self.gap))
        logits = self.place + embed(gaps, torch.cat([self.gap, absent]))  # [n, slots, kernels]
        weights = logits.transpose(1, 2).contiguous().softmax(dim=2)  # twice as fast as over the middle dimension
        weights = weights * window.present.any(dim=1)[:, None, None]
        means = weights @ embed(window.items, table, PADDING)  # [n, kernels, dim]
        return means.flatten(1)


class Totals(WindowEncoder):
    """The mean of the items, and their sum divided by the square root of their number; needs no order.

    The mean says what is chosen. The sum grows with the number of items, up to `slots`, and so says how much is known.
    Both are multiplied by `TOTALS_GAIN`.
    """

    means = 2

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        del gaps
        super().__init__()
        self.width = 2 * dim
        self.most = slots

    def reset_parameters(self) -> None:
        """It has none."""

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, 2 · dim]`."""
        mean = TOTALS_GAIN * embed_mean(window.items, table, PADDING)
        number = window.present.sum(dim=1, keepdim=True).clamp_max(self.most)
        return torch.cat([mean, mean * number.to(mean.dtype).sqrt()], dim=1)


class Mean(WindowEncoder):
    """The mean weighted by learned recency."""

    means = 1

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        del gaps
        super().__init__()
        self.width = dim
        self.recency = nn.Parameter(torch.empty(slots))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each place starts with exp(−0.1) times the weight of the one before it."""
        with torch.no_grad():
            self.recency.copy_(-0.1 * torch.arange(len(self.recency)))

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, dim]`."""
        weights = self.recency.exp() * window.present  # [n, slots]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
        return embed_sum(window.items, table, weights, PADDING)


class Summaries(Mean):
    """The mean weighted by learned recency, the last item and the mean of the last few, concatenated."""

    means = 3

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        super().__init__(dim, slots, gaps)
        self.width = 3 * dim

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, 3 · dim]`."""
        last, recent = (embed_mean(window.items[:, :count], table, PADDING) for count in (1, RECENT_ITEMS))
        return torch.cat([super().forward(window, table), last, recent], dim=1)


class Recurrent(WindowEncoder):
    """The last state of a gated recurrent unit that reads the items in chronological order."""

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        del slots, gaps
        super().__init__()
        self.width = dim
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def reset_parameters(self) -> None:
        """PyTorch's initialisation."""
        self.gru.reset_parameters()

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, dim]`."""
        device, slots = window.items.device, window.items.shape[1]
        lengths = window.present.sum(dim=1)
        places = (lengths[:, None] - 1 - torch.arange(slots, device=device)).clamp_min(0)
        states, _ = self.gru(embed(window.items.gather(1, places), table, PADDING))  # earliest first
        last = states[torch.arange(lengths.shape[0], device=device), (lengths - 1).clamp_min(0)]
        masked: Tensor = last * (lengths > 0).unsqueeze(1)
        return masked


class SelfAttention(WindowEncoder):
    """One block of causal self-attention, read at the latest item, which attends to itself and the items before it."""

    def __init__(self, dim: int, slots: int, gaps: int) -> None:
        del gaps
        super().__init__()
        self.width = dim
        self.places = nn.Parameter(torch.zeros(slots, dim))
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.norm, self.feed = nn.LayerNorm(dim), nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def reset_parameters(self) -> None:
        """Place embeddings at zero, everything else at PyTorch's initialisation."""
        nn.init.zeros_(self.places)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()

    def forward(self, window: Window, table: Tensor) -> Tensor:
        """`[n, dim]`."""
        items = self.norm(embed(window.items, table, PADDING) + self.places)
        logits = (self.key(items) @ self.query(items[:, 0]).unsqueeze(2)).squeeze(2) / items.shape[2] ** 0.5
        logits = logits.masked_fill(~window.present, torch.finfo(logits.dtype).min)
        mixed = (logits.softmax(dim=1).unsqueeze(1) @ self.value(items)).squeeze(1) + items[:, 0]
        fed: Tensor = (mixed + self.feed(mixed)) * window.present[:, :1]
        return fed


ENCODERS: dict[str, type[Kernels] | type[Totals] | type[Mean] | type[Recurrent] | type[SelfAttention]] = {
    "kernels": Kernels,
    "totals": Totals,
    "summaries": Summaries,
    "mean": Mean,
    "gru": Recurrent,
    "attention": SelfAttention,
}
