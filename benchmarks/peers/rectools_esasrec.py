"""RecTools' eSASRec (SASRec with LiGR layers and sampled softmax) on a sequence log, leave-one-out, early stopping.

Needs a separate environment: `pip install rectools==0.19.0 pytorch_lightning==2.6.6 torch==2.13.0 'pyarrow<21'
'numpy<2'`. Then

    python benchmarks/peers/rectools_esasrec.py LOG.parquet --out benchmarks/results/peer-esasrec.json

The log has the columns `user`, `item` and `position`. The last event of each user is test, the one before it
validation, and the rest train; candidates are all items of the log except those that the user has seen. Settings are
those of RecTools' documentation for eSASRec, with 64 dimensions and two blocks. Training stops when the validation loss
has not fallen for `--patience` epochs, or after `--minutes`; the best epoch's weights are evaluated, with the
validation event in the history.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

BEGIN = pd.Timestamp("2000-01-01")


class Lines(Callback):  # type: ignore[misc]
    """Prints a line per epoch."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Prints the epoch and its validation loss."""
        if trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get("val_loss")
        print(f"epoch {trainer.current_epoch}: val_loss {loss}, {time.perf_counter() - self.started:.0f} s", flush=True)


def last_of_train(interactions: pd.DataFrame) -> np.ndarray:
    """Marks the validation rows: the last event of each user."""
    rank = interactions.sort_values(Columns.Datetime, ascending=False).groupby(Columns.User, sort=False).cumcount()
    return np.asarray((rank == 0).sort_index())


def main() -> None:
    """Trains, evaluates and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seed_everything(arguments.seed)
    log = pd.read_parquet(arguments.log)
    events = pd.DataFrame(
        {
            Columns.User: log["user"],
            Columns.Item: log["item"],
            Columns.Weight: 1.0,
            Columns.Datetime: BEGIN + pd.to_timedelta(log["position"], unit="D"),
        }
    )
    from_end = log.groupby("user")["position"].transform("max") - log["position"]
    before_test, test = events[from_end > 0].reset_index(drop=True), events[from_end == 0]
    folder = tempfile.mkdtemp()

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=arguments.epochs,
            max_time=timedelta(minutes=arguments.minutes),
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            callbacks=[
                EarlyStopping("val_loss", patience=arguments.patience),
                ModelCheckpoint(folder, monitor="val_loss", save_weights_only=True),
                Lines(),
            ],
        )

    model = SASRecModel(
        n_blocks=2,
        n_heads=2,
        n_factors=64,
        session_max_len=20,
        loss="sampled_softmax",
        n_negatives=256,
        lr=1e-3,
        batch_size=128,
        transformer_layers_type=LiGRLayers,
        get_val_mask_func=last_of_train,
        get_trainer_func=trainer,
        recommend_n_threads=arguments.threads,
    )
    dataset = Dataset.construct(before_test)
    started = time.perf_counter()
    model.fit(dataset)
    seconds = time.perf_counter() - started
    trained = model.fit_trainer  # RecTools copies the trainer
    best = torch.load(trained.checkpoint_callback.best_model_path, weights_only=False)["state_dict"]
    model.lightning_model.load_state_dict(best)
    found = model.recommend(test[Columns.User].unique(), dataset, k=10, filter_viewed=True)
    hits = found.merge(test[[Columns.User, Columns.Item]], on=[Columns.User, Columns.Item])
    rank = hits[Columns.Rank].to_numpy()
    recall, ndcg = np.zeros(len(test)), np.zeros(len(test))
    recall[: len(rank)], ndcg[: len(rank)] = 1.0, 1 / np.log2(rank + 1)
    half = 1.96 / np.sqrt(len(test))
    result = {
        "log": arguments.log.stem,
        "seed": arguments.seed,
        "recall_10": recall.mean(),
        "recall_10_half_width": half * recall.std(),
        "ndcg_10": ndcg.mean(),
        "ndcg_10_half_width": half * ndcg.std(),
        "epochs": trained.current_epoch,
        "stopped_early": bool(trained.early_stopping_callback.stopped_epoch),
        "training_seconds": seconds,
        "threads": arguments.threads,
    }
    print(json.dumps(result, indent=1))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
