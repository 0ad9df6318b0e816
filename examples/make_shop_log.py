"""Generates a small shop's log as Parquet files, to try `own_log.toml` and `own_log.py` with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def make(folder: Path, customers: int = 500, products: int = 200, purchases: int = 20_000) -> None:
    """Writes purchases, products, customers and new products as Parquet; each customer buys from two shelves."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    shelves = ("tea", "coffee", "bread", "cheese", "fruit", "wine", "fish", "flowers")
    shelf = draw.integers(len(shelves), size=products)
    liked = draw.integers(len(shelves), size=(customers, 2))
    who = draw.integers(customers, size=purchases)
    wanted = liked[who, draw.integers(2, size=purchases)]
    by_shelf = [np.flatnonzero(shelf == number) for number in range(len(shelves))]
    what = np.array([draw.choice(by_shelf[number]) for number in wanted])
    start = np.datetime64("2025-01-01", "s")
    purchases_table = pa.table(
        {
            "customer": [f"c{number:04d}" for number in who],
            "sku": what + 10_000,
            "bought_at": start + np.sort(draw.integers(365 * 86_400, size=purchases)).astype("timedelta64[s]"),
            "quantity": draw.integers(1, 4, size=purchases),
        }
    )
    pq.write_table(purchases_table, folder / "purchases.parquet")
    labels = [f"{shelves[s]} no. {number}" for number, s in enumerate(shelf)]
    pq.write_table(
        pa.table({"sku": np.arange(products) + 10_000, "label": labels, "shelf": [shelves[s] for s in shelf]}),
        folder / "products.parquet",
    )
    pq.write_table(
        pa.table({"sku": [20_000, 20_001], "label": ["tea no. 900", "fish no. 901"], "shelf": ["tea", "fish"]}),
        folder / "new_products.parquet",
    )
    pq.write_table(
        pa.table(
            {"customer": [f"c{n:04d}" for n in range(customers)], "city": draw.choice(["Bern", "Basel"], customers)}
        ),
        folder / "customers.parquet",
    )


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "shop"))
