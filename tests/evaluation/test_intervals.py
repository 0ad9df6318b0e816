from __future__ import annotations

import math

import numpy as np
import pytest

from twotower.evaluation.intervals import Interval, mean_interval, t_975


def below(quantile: float, degrees: int) -> float:
    """Student's distribution function, by integrating its density."""
    x = np.linspace(0, quantile, 20_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    return 0.5 + float(np.trapezoid(scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2), x))


@pytest.mark.parametrize("degrees", [*range(1, 31), 31, 40, 100, 1000])
def test_t_is_the_quantile(degrees: int) -> None:
    assert below(t_975(degrees), degrees) == pytest.approx(0.975, abs=2e-6)


def test_an_interval_by_hand() -> None:
    # mean 3, deviation √2.5 over √5, t with 4 degrees 2.77645
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3.0
    assert interval.half_width == pytest.approx(2.77645 * math.sqrt(2.5 / 5))
    assert (interval.low, interval.high) == (3 - interval.half_width, 3 + interval.half_width)  # type: ignore[operator]


def test_one_value_tells_no_spread() -> None:
    assert mean_interval([0.25]) == Interval(0.25)
    assert str(mean_interval([0.25])) == "0.2500"
