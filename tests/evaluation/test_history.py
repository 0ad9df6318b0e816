from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from twotower.errors import ConfigError
from twotower.evaluation.metrics import Scores
from twotower.training import Epoch, TrainingHistory


def epoch_of(number: int, mrr: float | None) -> Epoch:
    scores = None if mrr is None else Scores({"mrr": mrr, "top_5": 0.5}, {"mrr": mrr + 0.1, "top_5": 0.6})
    return Epoch(number, loss=3.0 / number, learning_rate=0.01, seconds=1.5, validation=scores)


def points_of(panel: Axes) -> list[list[float]]:
    """The points of a panel's first curve."""
    points: list[list[float]] = np.asarray(panel.lines[0].get_xydata()).tolist()
    return points


HISTORY = TrainingHistory(monitor="all.mrr", epochs=[epoch_of(1, None), epoch_of(2, 0.3), epoch_of(3, 0.2)])


def test_a_history_is_a_table_with_a_row_an_epoch() -> None:
    table = HISTORY.to_table()
    assert table["epoch"].to_pylist() == [1, 2, 3]
    assert table["loss"].to_pylist() == [3.0, 1.5, 1.0]
    assert table["all.mrr"].to_pylist() == [None, 0.3, 0.2]
    assert table["unseen.mrr"].to_pylist() == [None, 0.4, pytest.approx(0.3)]
    frame = table.to_pandas()
    assert frame.loc[frame["all.mrr"].idxmax(), "epoch"] == 2


def test_accuracy_in_training_has_columns_of_its_own() -> None:
    epochs = [Epoch(1, 2.0, 0.1, 1.0), Epoch(2, 2.0, 0.1, 1.0, accuracy={"top_5": 0.25})]
    table = TrainingHistory(epochs=epochs).to_table()
    assert table["training.top_5"].to_pylist() == [None, 0.25]


def test_the_plot_has_the_loss_and_what_was_asked_for_of_validation() -> None:
    loss, validation = HISTORY.plot().axes
    assert points_of(loss) == [[1, 3.0], [2, 1.5], [3, 1.0]]
    assert points_of(validation) == [[2, 0.3], [3, 0.2]]
    legend = validation.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["all MRR", "best: epoch 2"]
    two = HISTORY.plot(["unseen.mrr", "top_5"]).axes[1]
    assert [line.get_label() for line in two.lines][:2] == ["unseen MRR", "top-5"]
    assert HISTORY.plot()._repr_png_().startswith(b"\x89PNG")


def test_without_validation_there_is_the_loss_alone() -> None:
    history = TrainingHistory(epochs=[epoch_of(1, None)])
    (loss,) = history.plot().axes
    assert points_of(loss) == [[1, 3.0]]
    with pytest.raises(ConfigError, match=r"'all\.recall_5' was not measured"):
        HISTORY.plot(["all.recall_5"])
    with pytest.raises(ConfigError, match="no epochs"):
        TrainingHistory().plot()


def test_a_notebook_shows_the_epochs_the_best_of_them_bold() -> None:
    page = HISTORY._repr_html_()
    assert page.count("<tr") == 4
    assert "<th>all MRR</th>" in page
    assert '<tr style="font-weight: bold"><td>2</td><td>1.5000</td><td>0.3000</td><td>1.5</td></tr>' in page
    assert "<td>1</td><td>3.0000</td><td></td>" in page
    long = TrainingHistory(monitor="all.mrr", epochs=[epoch_of(n, 0.5 if n == 30 else 0.1) for n in range(1, 101)])
    assert long._repr_html_().count("<tr") < 30
    assert '<tr style="font-weight: bold"><td>30</td>' in long._repr_html_()
    assert TrainingHistory()._repr_html_().count("<tr") == 1
