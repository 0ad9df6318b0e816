"""Trains on your own log from Python: the same as `twotower train examples/own_log.toml`, in a dozen lines."""

from __future__ import annotations

import sys
from pathlib import Path

import twotower as tt


def main(folder: Path) -> tt.Evaluation:
    """Trains on the Parquet files in `folder`, saves the retriever there and returns the evaluation."""
    data = tt.data.from_tables(
        folder / "purchases.parquet",
        candidates=folder / "products.parquet",
        query_id="customer",
        candidate_id="sku",
        time="bought_at",
    )
    train, test = tt.data.split_by_time(data, test=0.2)
    model = tt.TwoTower(
        query=tt.Tower([tt.Category("customer"), tt.Normalized("bought_at")], layers=[64, 32]),
        candidate=tt.Tower([tt.Category("sku"), tt.Text("label")], layers=[64, 32]),
    )
    tt.Trainer(epochs=8, batch_size=512, optimizer=tt.AdamW(0.003)).fit(model, train)
    evaluation = tt.evaluate(model, test, exclude=train)
    tt.Retriever.build(model, data.candidates, seen=train, title="label").save(folder / "retriever")
    return evaluation


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1] if len(sys.argv) > 1 else 'shop'))}\n")
