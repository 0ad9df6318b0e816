"""The models of TensorFlow Recommenders' tutorials, trained as in the tutorials; run by `tutorials.py`.

Runs in the environment of `requirements.txt`, without twotower. Reads an .npz file of columns and writes a JSON file
with the scores of each tutorial, one per seed. Layers, optimisers, batches and epochs are the tutorials' own
(github.com/tensorflow/recommenders, docs/examples). Differences: quickstart, which trains on everything and evaluates
nothing, trains on shuffled train and is evaluated on test; sequential_retrieval reads MovieLens 100K instead of 1M;
diststrat_retrieval uses two virtual CPUs instead of two virtual GPUs; batches are drawn once and reused, even in
context_features, which redraws them; pairwise hinge and ListMLE are implemented here, without TensorFlow Ranking.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

TOP = "factorized_top_k/top_100_categorical_accuracy"
DIM = 32
Arrays = dict[str, Any]


def lookup(values: Any, dim: int = DIM) -> Any:
    """An embedding for each distinct value, plus one for unknown values."""
    known = np.unique(values)
    kind = tf.keras.layers.StringLookup if known.dtype.kind in "US" else tf.keras.layers.IntegerLookup
    mask = {"mask_token": None} if known.dtype.kind in "US" else {"mask_value": None}
    return tf.keras.Sequential([kind(vocabulary=known, **mask), tf.keras.layers.Embedding(len(known) + 1, dim)])


def dense(*widths: int, last: int | None = None) -> Any:
    """Dense layers with ReLU, optionally followed by one without."""
    layers = [tf.keras.layers.Dense(width, activation="relu") for width in widths]
    return tf.keras.Sequential([*layers, *([] if last is None else [tf.keras.layers.Dense(last)])])


class Retrieval(tfrs.models.Model):  # type: ignore[misc]
    """Two towers: basic_retrieval, and with more features context_features."""

    def __init__(self, query: Any, candidate: Any, columns: list[str], titles: Any, item: str = "movie_title") -> None:
        super().__init__()
        self.query, self.candidate, self.columns, self.item = query, candidate, columns, item
        movies = tf.data.Dataset.from_tensor_slices(titles).batch(128).map(candidate)
        self.task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(candidates=movies))

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        read = {name: features[name] for name in self.columns}
        query = self.query(read if len(read) > 1 else read[self.columns[0]])
        return self.task(query, self.candidate(features[self.item]), compute_metrics=not training)


class Context(tf.keras.Model):  # type: ignore[misc]
    """User id and timestamp: context_features' query model."""

    def __init__(self, users: Any, timestamps: Any) -> None:
        super().__init__()
        buckets = np.linspace(timestamps.min(), timestamps.max(), num=1000)
        self.user, self.project = lookup(users), tf.keras.layers.Dense(DIM)
        self.bucket = tf.keras.Sequential(
            [tf.keras.layers.Discretization(buckets.tolist()), tf.keras.layers.Embedding(len(buckets) + 2, DIM)]
        )
        self.normalized = tf.keras.layers.Normalization(axis=None)
        self.normalized.adapt(timestamps)

    def call(self, inputs: Any) -> Any:
        """Embeds a batch."""
        normalized = tf.reshape(self.normalized(inputs["timestamp"]), (-1, 1))
        parts = [self.user(inputs["user_id"]), self.bucket(inputs["timestamp"]), normalized]
        return self.project(tf.concat(parts, axis=1))


class Title(tf.keras.Model):  # type: ignore[misc]
    """The title as an id and as words: context_features' movie model."""

    def __init__(self, titles: Any) -> None:
        super().__init__()
        self.title, self.project = lookup(titles), tf.keras.layers.Dense(DIM)
        vectorizer = tf.keras.layers.TextVectorization(max_tokens=10_000)
        pooled = tf.keras.layers.GlobalAveragePooling1D()
        self.words = tf.keras.Sequential([vectorizer, tf.keras.layers.Embedding(10_000, DIM, mask_zero=True), pooled])
        vectorizer.adapt(tf.data.Dataset.from_tensor_slices(titles).batch(128))

    def call(self, titles: Any) -> Any:
        """Embeds a batch of titles."""
        return self.project(tf.concat([self.title(titles), self.words(titles)], axis=1))


class Multitask(tfrs.models.Model):  # type: ignore[misc]
    """Embeddings of users and titles, with a rating task, a retrieval task, or both."""

    def __init__(self, users: Any, titles: Any, rating_weight: float, retrieval_weight: float) -> None:
        super().__init__()
        self.user, self.movie, self.rating = lookup(users), lookup(titles), dense(256, 128, last=1)
        self.rating_task = tfrs.tasks.Ranking(
            loss=tf.keras.losses.MeanSquaredError(), metrics=[tf.keras.metrics.RootMeanSquaredError(name="rmse")]
        )
        movies = tf.data.Dataset.from_tensor_slices(titles).batch(128).map(self.movie)
        self.retrieval_task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(candidates=movies))
        self.weights_of = rating_weight, retrieval_weight

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        user, movie = self.user(features["user_id"]), self.movie(features["movie_title"])
        predictions = self.rating(tf.concat([user, movie], axis=1))
        rating = self.rating_task(labels=features["rating"], predictions=predictions)
        retrieval = self.retrieval_task(user, movie, compute_metrics=not training)
        return self.weights_of[0] * rating + self.weights_of[1] * retrieval


class Rating(tfrs.models.Model):  # type: ignore[misc]
    """A rating from concatenated embeddings: basic_ranking, and with a cross layer dcn."""

    def __init__(self, columns: Arrays, layers: tuple[int, ...], cross: bool = False, rank: int | None = None) -> None:
        super().__init__()
        self.names, self.embeddings = list(columns), {name: lookup(values) for name, values in columns.items()}
        initializer = "glorot_uniform"
        self.cross = tfrs.layers.dcn.Cross(projection_dim=rank, kernel_initializer=initializer) if cross else None
        self.deep = dense(*layers, last=1)
        self.task = tfrs.tasks.Ranking(
            loss=tf.keras.losses.MeanSquaredError(), metrics=[tf.keras.metrics.RootMeanSquaredError(name="rmse")]
        )

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        inputs = tf.concat([self.embeddings[name](features[name]) for name in self.names], axis=1)
        inputs = inputs if self.cross is None else self.cross(inputs)
        return self.task(labels=features["rating"], predictions=self.deep(inputs))


class Toy(tfrs.models.Model):  # type: ignore[misc]
    """dcn's regression on three numbers."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.last = layer, tf.keras.layers.Dense(1)
        self.task = tfrs.tasks.Ranking(
            loss=tf.keras.losses.MeanSquaredError(), metrics=[tf.keras.metrics.RootMeanSquaredError(name="rmse")]
        )

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        numbers, target = features
        return self.task(labels=target, predictions=self.last(self.layer(numbers)))


class Lists(tfrs.models.Model):  # type: ignore[misc]
    """listwise_ranking: scores for the five movies of a list."""

    def __init__(self, users: Any, titles: Any, loss: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.user, self.movie, self.score, self.loss_of = lookup(users), lookup(titles), dense(256, 64, last=1), loss

    def scores(self, features: Any) -> Any:
        """Scores of each list's movies, `[L, 5]`."""
        movie = self.movie(features["movie_title"])  # [L, 5, 32]
        user = tf.repeat(self.user(features["user_id"])[:, tf.newaxis], movie.shape[1], axis=1)
        return tf.squeeze(self.score(tf.concat([user, movie], axis=2)), axis=-1)

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        """The loss of a batch."""
        return self.loss_of(features["rating"], self.scores(features))


def mean_squared(labels: Any, scores: Any) -> Any:
    """The pointwise squared error."""
    return tf.reduce_mean(tf.square(labels - scores))


def pairwise_hinge(labels: Any, scores: Any) -> Any:
    """The mean hinge loss over pairs of different relevance."""
    pairs = tf.cast(labels[:, :, tf.newaxis] > labels[:, tf.newaxis, :], tf.float32)
    losses = tf.nn.relu(1.0 - (scores[:, :, tf.newaxis] - scores[:, tf.newaxis, :])) * pairs
    return tf.reduce_sum(losses) / tf.reduce_sum(pairs)


def list_mle(labels: Any, scores: Any) -> Any:
    """The negative log-likelihood of the order by label; ties are ordered randomly."""
    order = tf.argsort(labels + tf.random.uniform(tf.shape(labels), maxval=0.1), direction="DESCENDING")
    ordered = tf.gather(scores, order, batch_dims=1)
    ordered -= tf.reduce_max(ordered, axis=1, keepdims=True)
    left = tf.cumsum(tf.exp(ordered), axis=1, reverse=True)
    return tf.reduce_mean(tf.reduce_sum(tf.math.log(left) - ordered, axis=1))


def fitted(model: Any, train: Any, test: Any, optimizer: Any, epochs: int) -> dict[str, float]:
    """Trains a model; returns its scores on test and the seconds of training."""
    model.compile(optimizer=optimizer)
    started = time.perf_counter()
    model.fit(train, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - started
    found = {} if test is None else model.evaluate(test, return_dict=True, verbose=0)
    names = {TOP: "top_100", "rmse": "rmse"}
    return {names[key]: float(value) for key, value in found.items() if key in names} | {"seconds": seconds}


def retrieval(
    data: Arrays, query: Any, candidate: Any, columns: list[str], batch: int, rate: float
) -> dict[str, float]:
    """Trains a retrieval model for three epochs."""
    model = Retrieval(query, candidate, columns, data["titles"])
    train, test = parts(data, [*dict.fromkeys([*columns, "movie_title"])], batch)
    return fitted(model, train, test, tf.keras.optimizers.Adagrad(rate), 3)


def parts(data: Arrays, columns: list[str], batch: int) -> tuple[Any, Any]:
    """Batches of train, shuffled, and of test."""
    train, test = (
        tf.data.Dataset.from_tensor_slices({name: data[f"{part}_{name}"] for name in columns})
        for part in ("train", "test")
    )
    return train.shuffle(100_000).batch(batch).cache(), test.batch(4096).cache()


def multitask(data: Arrays, rating: float, retrieval_weight: float) -> dict[str, float]:
    """The multitask tutorial with these weights."""
    model = Multitask(data["users"], data["titles"], rating, retrieval_weight)
    train, test = parts(data, ["user_id", "movie_title", "rating"], 8192)
    return fitted(model, train, test, tf.keras.optimizers.Adagrad(0.1), 3)


def rating(data: Arrays, columns: list[str], layers: tuple[int, ...], **cross: Any) -> dict[str, float]:
    """basic_ranking, or dcn."""
    values = {name: np.concatenate([data[f"train_{name}"], data[f"test_{name}"]]) for name in columns}
    train, test = parts(data, [*columns, "rating"], 8192)
    adam = tf.keras.optimizers.Adam(0.01)
    is_basic = len(columns) == 2
    optimizer = tf.keras.optimizers.Adagrad(0.1) if is_basic else adam
    return fitted(Rating(values, layers, **cross), train, test, optimizer, 3 if is_basic else 8)


def toy(layer: Callable[[], Any]) -> Callable[[Arrays], dict[str, float]]:
    """The regression of the dcn tutorial, with the given layer."""

    def run(data: Arrays) -> dict[str, float]:
        numbers, target = data["toy_numbers"], data["toy_target"]
        train, test = (
            tf.data.Dataset.from_tensor_slices((numbers[rows], target[rows])).batch(1000).cache()
            for rows in (slice(0, 90_000), slice(90_000, None))
        )
        return fitted(Toy(layer()), train, test, tf.keras.optimizers.Adagrad(0.4), 100)

    return run


def lists(loss: Callable[[Any, Any], Any]) -> Callable[[Arrays], dict[str, float]]:
    """listwise_ranking with a loss; NDCG uses gains of 2^rating − 1, like TensorFlow Ranking's metric."""

    def run(data: Arrays) -> dict[str, float]:
        features = {name: data[f"train_list_{name}"] for name in ("user_id", "movie_title", "rating")}
        model = Lists(data["users"], data["titles"], loss)
        train = tf.data.Dataset.from_tensor_slices(features).shuffle(100_000).batch(8192).cache()
        found = fitted(model, train, None, tf.keras.optimizers.Adagrad(0.1), 30)
        test = {name: tf.constant(data[f"test_list_{name}"]) for name in ("user_id", "movie_title", "rating")}
        return found | {"ndcg": float(ndcg(model.scores(test).numpy(), data["test_list_rating"]).mean())}

    return run


def ndcg(scores: Any, relevance: Any) -> Any:
    """NDCG of each list, `[L]`."""
    gains, discounts = 2.0**relevance - 1, 1 / np.log2(np.arange(relevance.shape[1]) + 2)
    by_score = np.take_along_axis(gains, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return (by_score * discounts).sum(axis=1) / (-np.sort(-gains, axis=1) * discounts).sum(axis=1)


def sequential(data: Arrays) -> dict[str, float]:
    """sequential_retrieval: a GRU over the ten previous movies."""
    movies = data["sequence_movies"]
    query = tf.keras.Sequential([*lookup(movies).layers, tf.keras.layers.GRU(DIM)])
    model = Retrieval(query, lookup(movies), ["context"], movies, item="movie_id")
    own = {f"{part}_{name}": data[f"{part}_{key}"] for part in ("train", "test") for name, key in SEQUENCE.items()}
    train, test = parts(own, list(SEQUENCE), 12_800)
    return fitted(model, train, test, tf.keras.optimizers.Adagrad(0.1), 3)


def distributed(data: Arrays) -> dict[str, float]:
    """diststrat_retrieval: a replica on each of two virtual CPUs."""
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = Retrieval(lookup(data["users"]), lookup(data["titles"]), ["user_id"], data["titles"])
        train, test = parts(data, ["user_id", "movie_title"], 8192)
        return fitted(model, train, test, tf.keras.optimizers.Adam(0.1), 3)


def split_the_cpu() -> None:
    """Configures two virtual CPUs; must be called before TensorFlow initialises."""
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])


SEQUENCE = {"context": "context", "movie_id": "sequence"}
"""Columns of sequential_retrieval, and their names in the data."""

DCN = ["movie_id", "user_id", "zip_code", "occupation", "gender", "age_bucket"]

TUTORIALS: dict[str, Callable[[Arrays], dict[str, float]]] = {
    "quickstart": lambda data: retrieval(
        data, lookup(data["users"], 64), lookup(data["titles"], 64), ["user_id"], 4096, 0.5
    ),
    "basic_retrieval": lambda data: retrieval(
        data, lookup(data["users"]), lookup(data["titles"]), ["user_id"], 8192, 0.1
    ),
    "basic_ranking": lambda data: rating(data, ["user_id", "movie_title"], (256, 64)),
    "context_features, no timestamps": lambda data: retrieval(
        data,
        tf.keras.Sequential([*lookup(data["users"]).layers, tf.keras.layers.Dense(DIM)]),
        Title(data["titles"]),
        ["user_id"],
        2048,
        0.1,
    ),
    "context_features, timestamps": lambda data: retrieval(
        data,
        Context(data["users"], np.concatenate([data["train_timestamp"], data["test_timestamp"]])),
        Title(data["titles"]),
        ["user_id", "timestamp"],
        2048,
        0.1,
    ),
    "sequential_retrieval": sequential,
    "diststrat_retrieval": distributed,
    "multitask, rating": lambda data: multitask(data, 1.0, 0.0),
    "multitask, retrieval": lambda data: multitask(data, 0.0, 1.0),
    "multitask, joint": lambda data: multitask(data, 1.0, 1.0),
    "dcn": lambda data: rating(data, DCN, (192, 192), cross=True),
    "dcn, low rank": lambda data: rating(data, DCN, (192, 192), cross=True, rank=20),
    "dcn, no cross": lambda data: rating(data, DCN, (192, 192, 192)),
    "dcn toy, cross": toy(lambda: tfrs.layers.dcn.Cross()),
    "dcn toy, deep": toy(lambda: dense(512, 256, 128)),
    "listwise_ranking, squared": lists(mean_squared),
    "listwise_ranking, hinge": lists(pairwise_hinge),
    "listwise_ranking, ListMLE": lists(list_mle),
}


def main() -> None:
    """`tutorials_worker.py DATA.npz OUT.json SEEDS [NAME…]`; rewrites the file after each tutorial."""
    data = dict(np.load(sys.argv[1]))
    out, seeds, names = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(TUTORIALS)
    if "diststrat_retrieval" in names:
        split_the_cpu()
    found: dict[str, list[dict[str, float]]] = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        found[name] = []
        for seed in range(1 if "deep" in name else seeds):
            tf.keras.utils.set_random_seed(seed)
            found[name].append(TUTORIALS[name](data))
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
