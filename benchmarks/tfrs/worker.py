"""TensorFlow Recommenders' side of the comparison: runs the tutorial's model on command.

Runs in the environment of `requirements.txt`, without twotower; started by `client.py`. It reads commands as lines of
JSON from standard input and answers in lines of JSON on a separate file descriptor, so that TensorFlow's own output
does not interfere. It exits when standard input is closed.

The tutorial is *Building deep retrieval models* of TensorFlow Recommenders (docs/examples/deep_recommenders.ipynb):
its features, layers, optimiser, batches, metrics and call of `fit`. Data comes from .npy files instead of
tensorflow-datasets, and is in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

SCORE = "val_factorized_top_k/top_100_categorical_accuracy"
VERSIONS = ("tensorflow-cpu", "tf-keras", "tensorflow-recommenders", "numpy")
DIM = 32


class UserModel(tf.keras.Model):  # type: ignore[misc]
    """User id and timestamp, embedded."""

    def __init__(self, user_ids: Any, timestamps: Any) -> None:
        super().__init__()
        timestamp_buckets = np.linspace(timestamps.min(), timestamps.max(), num=1000)
        self.user_lookup = tf.keras.layers.StringLookup(vocabulary=user_ids, mask_token=None)
        self.user_embedding = tf.keras.Sequential([self.user_lookup, tf.keras.layers.Embedding(len(user_ids) + 1, DIM)])
        self.timestamp_bucket = tf.keras.layers.Discretization(timestamp_buckets.tolist())
        self.timestamp_embedding = tf.keras.Sequential(
            [self.timestamp_bucket, tf.keras.layers.Embedding(len(timestamp_buckets) + 1, DIM)]
        )
        self.normalized_timestamp = tf.keras.layers.Normalization(axis=None)
        self.normalized_timestamp.adapt(timestamps)

    def call(self, inputs: Any) -> Any:
        """Embeds a batch of users at given times."""
        return tf.concat(
            [
                self.user_embedding(inputs["user_id"]),
                self.timestamp_embedding(inputs["timestamp"]),
                tf.reshape(self.normalized_timestamp(inputs["timestamp"]), (-1, 1)),
            ],
            axis=1,
        )


class MovieModel(tf.keras.Model):  # type: ignore[misc]
    """Movie title, embedded as an id and as words."""

    def __init__(self, titles: Any) -> None:
        super().__init__()
        max_tokens = 10_000
        unique_titles = np.unique(titles)
        self.title_lookup = tf.keras.layers.StringLookup(vocabulary=unique_titles, mask_token=None)
        self.title_embedding = tf.keras.Sequential(
            [self.title_lookup, tf.keras.layers.Embedding(len(unique_titles) + 1, DIM)]
        )
        self.title_vectorizer = tf.keras.layers.TextVectorization(max_tokens=max_tokens)
        self.title_text_embedding = tf.keras.Sequential(
            [
                self.title_vectorizer,
                tf.keras.layers.Embedding(max_tokens, DIM, mask_zero=True),
                tf.keras.layers.GlobalAveragePooling1D(),
            ]
        )
        self.title_vectorizer.adapt(tf.data.Dataset.from_tensor_slices(titles).batch(128))

    def call(self, titles: Any) -> Any:
        """Embeds a batch of titles."""
        return tf.concat([self.title_embedding(titles), self.title_text_embedding(titles)], axis=1)


class DeepModel(tf.keras.Model):  # type: ignore[misc]
    """An embedding model followed by dense layers, with ReLU after all but the last."""

    def __init__(self, embedding_model: Any, layer_sizes: list[int]) -> None:
        super().__init__()
        self.embedding_model = embedding_model
        self.dense_layers = tf.keras.Sequential()
        for layer_size in layer_sizes[:-1]:
            self.dense_layers.add(tf.keras.layers.Dense(layer_size, activation="relu"))
        for layer_size in layer_sizes[-1:]:
            self.dense_layers.add(tf.keras.layers.Dense(layer_size))

    def call(self, inputs: Any) -> Any:
        """Embeds a batch."""
        return self.dense_layers(self.embedding_model(inputs))


class MovielensModel(tfrs.models.Model):  # type: ignore[misc]
    """The tutorial's two towers and their task."""

    def __init__(self, query_model: Any, candidate_model: Any, titles: Any) -> None:
        super().__init__()
        self.query_model = query_model
        self.candidate_model = candidate_model
        movies = tf.data.Dataset.from_tensor_slices(titles)
        self.task = tfrs.tasks.Retrieval(
            metrics=tfrs.metrics.FactorizedTopK(candidates=movies.batch(128).map(self.candidate_model))
        )

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch; outside training, also updates the metrics."""
        query_embeddings = self.query_model({name: features[name] for name in ("user_id", "timestamp")})
        movie_embeddings = self.candidate_model(features["movie_title"])
        return self.task(query_embeddings, movie_embeddings, compute_metrics=not training)


class LargeModel(tfrs.models.Model):  # type: ignore[misc]
    """Two large tables, each followed by a dense layer; ids are already row numbers, which favours this side."""

    def __init__(self, queries: int, candidates: int, dim: int) -> None:
        super().__init__()
        self.query_model, self.candidate_model = (
            tf.keras.Sequential([tf.keras.layers.Embedding(rows, dim), tf.keras.layers.Dense(dim)])
            for rows in (queries, candidates)
        )
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        query_embeddings = self.query_model(features["query"])
        candidate_embeddings = self.candidate_model(features["candidate"])
        return self.task(query_embeddings, candidate_embeddings, compute_metrics=not training)


class Turns(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Waits for a command before each epoch, and afterwards answers with the time of training and validation."""

    def __init__(self, worker: Worker, epochs: int) -> None:
        super().__init__()
        self.worker, self.epochs = worker, epochs
        self.trained: float | None = None

    def on_train_begin(self, _logs: Any = None) -> None:
        """Waits for the command to start the first epoch."""
        self.wait()

    def on_test_begin(self, _logs: Any = None) -> None:
        """Records the end of training, which is when validation begins."""
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Answers with the measurements."""
        ended = time.perf_counter()
        trained = ended if self.trained is None else self.trained
        score = logs.get(SCORE)
        self.worker.answer(
            seconds=trained - self.started,
            validation_seconds=ended - trained,
            score=None if score is None else float(score),
        )
        if epoch + 1 < self.epochs:
            self.wait()

    def wait(self) -> None:
        """Waits for the next command."""
        self.worker.next_command()
        self.trained = None
        self.started = time.perf_counter()


class Worker:
    """Runs the commands and holds their state.

    Args:
        folder: The folder for exchanging arrays.
        answers: The file descriptor for answers.
    """

    def __init__(self, folder: Path, answers: int) -> None:
        self.folder = folder
        self.answers = os.fdopen(answers, "w", encoding="utf-8")
        self.model: Any = None
        self.train: Any = None
        self.test: Any = None

    def answer(self, **values: Any) -> None:
        """Sends one line."""
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def next_command(self) -> dict[str, Any]:
        """Waits for one line; exits the process if standard input is closed."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        command: dict[str, Any] = json.loads(line)
        return command

    def load(self, name: str) -> Any:
        """Reads an array from the shared folder."""
        return np.load(self.folder / f"{name}.npy")

    def tutorial(self, layers: list[int], seed: int) -> None:
        """Creates the tutorial's model and data, and traces all functions."""
        tf.keras.utils.set_random_seed(seed)
        self.columns = {
            part: {name: self.load(f"{part}-{name}") for name in ("user_id", "timestamp", "movie_title")}
            for part in ("train", "test")
        }
        self.titles = self.load("movies")
        user_ids, timestamps = (
            np.concatenate([self.columns[part][name] for part in ("train", "test")])
            for name in ("user_id", "timestamp")
        )
        self.model = MovielensModel(
            DeepModel(UserModel(np.unique(user_ids), timestamps), layers),
            DeepModel(MovieModel(self.titles), layers),
            self.titles,
        )
        self.model.compile(optimizer=tf.keras.optimizers.Adagrad(0.1))
        train, test = (tf.data.Dataset.from_tensor_slices(self.columns[part]) for part in ("train", "test"))
        self.train = train.shuffle(100_000).batch(2048)
        self.test = test.batch(4096).cache()
        self._trace()
        self.answer()

    def encode(self) -> None:
        """Writes the lookup layers' encodings of all users, titles and timestamps of train to the folder."""
        user, movie = self.model.query_model.embedding_model, self.model.candidate_model.embedding_model
        timestamps = tf.constant(self.columns["train"]["timestamp"])
        encoded = {
            "user": user.user_lookup(tf.constant(self.load("users"))),
            "bucket": user.timestamp_bucket(timestamps),
            "time": tf.reshape(user.normalized_timestamp(timestamps), (-1,)),
            "title": movie.title_lookup(tf.constant(self.titles)),
            "words": movie.title_vectorizer(tf.constant(self.titles)),
        }
        for name, values in encoded.items():
            np.save(self.folder / f"encoded-{name}.npy", values.numpy())
        self.answer()

    def weights(self) -> None:
        """Writes the weights to the folder: the tables of each tower, and each dense layer's matrix and bias."""
        arrays = {}
        for side, tower in (("query", self.model.query_model), ("candidate", self.model.candidate_model)):
            inner = tower.embedding_model
            tables = (
                (inner.user_embedding, inner.timestamp_embedding)
                if side == "query"
                else (inner.title_embedding, inner.title_text_embedding)
            )
            for number, table in enumerate(tables):
                arrays[f"{side}-table-{number}"] = table.trainable_variables[0].numpy()
            for number, layer in enumerate(tower.dense_layers.layers):
                arrays[f"{side}-matrix-{number}"] = layer.kernel.numpy()
                arrays[f"{side}-bias-{number}"] = layer.bias.numpy()
        np.savez(self.folder / "weights.npz", **arrays)
        self.answer()

    def steps(self, start: int, stop: int, count: int) -> None:
        """Trains some steps on the events of train from `start` to `stop`; answers with the losses."""
        columns = {name: column[start:stop] for name, column in self.columns["train"].items()}
        history = self.model.fit(tf.data.Dataset.from_tensors(columns), epochs=count, verbose=0).history
        self.answer(losses=[float(loss) for loss in history["loss"]])

    def reset(self) -> None:
        """Restores the initial weights and optimiser state."""
        self._restore()
        self.answer()

    def keep(self) -> None:
        """Makes the current weights the initial ones."""
        weights = self.model.trainable_variables
        self.beginning[: len(weights)] = [weight.numpy() for weight in weights]
        self.answer()

    def large(self, queries: int, candidates: int, dim: int, seed: int) -> None:
        """Creates the large model and traces all functions; batches are prepared in memory."""
        tf.keras.utils.set_random_seed(seed)
        self.model = LargeModel(queries, candidates, dim)
        self.model.compile(optimizer=tf.keras.optimizers.Adagrad(0.1))
        batches = {"query": self.load("queries"), "candidate": self.load("candidates")}  # [steps, B]
        self.train, self.test = tf.data.Dataset.from_tensor_slices(batches), None
        self._trace()
        self.answer()

    def fit(self, epochs: int, validate_every: int) -> None:
        """Trains as the tutorial does, with one command and one answer per epoch."""
        self.model.fit(
            self.train,
            validation_data=self.test,
            validation_freq=validate_every,
            epochs=epochs,
            verbose=0,
            callbacks=[Turns(self, epochs)],
        )

    def versions(self) -> None:
        """Answers with the installed versions."""
        self.answer(**{name: version(name) for name in VERSIONS})

    def _trace(self) -> None:
        """Traces TensorFlow's graphs with one step and one validation, then restores the initial state."""
        first = self.train.take(1)
        self.model.compute_loss(next(iter(first)), training=True)  # creates the weights
        self.model.optimizer.build(self.model.trainable_variables)
        self.beginning = [variable.numpy() for variable in self._state()]
        self.model.fit(first, validation_data=self.test, verbose=0)
        self._restore()

    def _restore(self) -> None:
        for variable, value in zip(self._state(), self.beginning, strict=True):
            variable.assign(value)

    def _state(self) -> list[Any]:
        """All variables that training changes: the weights and the optimiser's accumulators."""
        return [*self.model.trainable_variables, *self.model.optimizer.variables]


def main() -> None:
    """Runs commands until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for exchanging arrays")
    parser.add_argument("--answers", type=int, required=True, help="file descriptor for answers")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    worker = Worker(options.folder, options.answers)
    commands: dict[str, Callable[..., None]] = {
        "versions": worker.versions,
        "tutorial": worker.tutorial,
        "encode": worker.encode,
        "weights": worker.weights,
        "steps": worker.steps,
        "reset": worker.reset,
        "keep": worker.keep,
        "large": worker.large,
        "fit": worker.fit,
    }
    try:
        while True:
            command = worker.next_command()
            commands[command.pop("command")](**command)
    except Exception:
        worker.answer(error=traceback.format_exc())
        raise


if __name__ == "__main__":
    main()
