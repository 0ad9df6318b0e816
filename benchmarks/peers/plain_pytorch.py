"""The race's loop in plain PyTorch, as people write it: a `Dataset`, a `DataLoader`, `cross_entropy` and Adam.

Users are embedded by their id; on a sequence log, by the mean of the items before. Then both towers have dense layers.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from laps import LAYERS, WIDTH, Clock, Course, FloatArray, TimeUpError, introduce
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

BATCH, RATE, HISTORY = 1024, 1e-3, 20


class TwoTower(nn.Module):
    """Two towers.

    Args:
        queries: Rows of the query tower's table; row 0 is the padding of histories.
        items: Number of items.
    """

    def __init__(self, queries: int, items: int) -> None:
        super().__init__()
        self.query_table = nn.EmbeddingBag(queries, WIDTH, mode="mean", padding_idx=0)
        self.item_table = nn.Embedding(items, WIDTH)
        self.query_layers, self.item_layers = (
            nn.Sequential(nn.Linear(WIDTH, LAYERS[0]), nn.ReLU(), nn.Linear(*LAYERS)) for _ in range(2)
        )

    def query(self, query: Tensor) -> Tensor:
        """Embeds queries, `[B, ids]` to `[B, d]`."""
        embeddings: Tensor = self.query_layers(self.query_table(query))
        return embeddings

    def item(self, item: Tensor) -> Tensor:
        """Embeds items, `[B]` to `[B, d]`."""
        embeddings: Tensor = self.item_layers(self.item_table(item))
        return embeddings

    def forward(self, query: Tensor, item: Tensor) -> Tensor:
        """The loss of a batch: the other items of the batch are the negatives."""
        logits = self.query(query) @ self.item(item).T
        return functional.cross_entropy(logits, torch.arange(len(item)))


def inputs(course: Course) -> tuple[Tensor, Tensor, Tensor, int]:
    """Queries `[events, ids]` and items of train, queries of test, and the number of rows of the query table."""
    if course.is_sequence:
        train, test = (torch.from_numpy(history + 1) for history in course.histories(HISTORY))
        has_history = torch.from_numpy(course.position > 0)
        return train[has_history], torch.from_numpy(course.item)[has_history], test, course.items + 1
    train, test = (torch.from_numpy(user + 1)[:, None] for user in (course.user, course.test_user))
    return train, torch.from_numpy(course.item), test, course.users + 1


def main() -> None:
    """Trains."""
    course = Course.read()
    torch.set_num_threads(course.threads)
    torch.manual_seed(0)
    query, item, test_query, rows = inputs(course)
    introduce(course, "torch", batch=BATCH, optimiser=f"Adam({RATE})", layers=LAYERS)
    model = TwoTower(rows, course.items)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(query, item), batch_size=BATCH, shuffle=True)

    @torch.no_grad()
    def export() -> tuple[FloatArray, FloatArray]:
        return model.query(test_query).numpy(), model.item(torch.from_numpy(np.arange(course.items))).numpy()

    clock = Clock(course, export, len(loader))
    clock.start()
    with suppress(TimeUpError):
        while True:
            for batch_query, batch_item in loader:
                optimizer.zero_grad()
                model(batch_query, batch_item).backward()
                optimizer.step()
                clock.step()


if __name__ == "__main__":
    main()
