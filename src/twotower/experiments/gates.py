"""Gates: the checks that a new bundle must pass before it replaces the served one."""

from __future__ import annotations

import msgspec

from twotower.errors import ConfigError
from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.warm_start import WarmStartEvaluation, named
from twotower.experiments.drift import InputSummary, drift


class GateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How strict the gates are.

    Attributes:
        tolerance: How much lower than the old score the new one may be, beyond the interval of the difference.
        coverage: Minimum coverage, as a share of the old bundle's.
        drift: Maximum population stability index of a column.
        events: Minimum number of events, as a share of those at the last update.
        parity: Minimum recall of the index against exact search.

    Raises:
        ConfigError: A value is out of range.
    """

    tolerance: float = 0.0
    coverage: float = 0.5
    drift: float = 0.25
    events: float = 0.2
    parity: float = 0.95

    def __post_init__(self) -> None:
        for name in ("tolerance", "coverage", "events", "parity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected a share between 0 and 1", field=name)
        if not self.drift > 0:
            raise ConfigError(f"drift={self.drift}; expected a number above 0", field="drift")


class Gate(msgspec.Struct, frozen=True):
    """The result of one gate.

    Attributes:
        name: `events`, `drift`, `score`, `coverage` or `parity`.
        passed: Whether this gate allows the bundle to be published.
        said: The reason, in one sentence.
        figures: The numbers behind it.
    """

    name: str
    passed: bool
    said: str
    figures: dict[str, float | None] = {}


def input_gates(before: InputSummary | None, after: InputSummary, settings: GateSettings) -> list[Gate]:
    """Whether the inputs resemble those of the last update. The first update always passes."""
    if before is None:
        return [Gate("drift", True, "This is the first update; the inputs of later ones are compared with it.")]
    left = after.events / max(1, before.events)
    gates = [
        Gate(
            "events",
            left >= settings.events,
            f"There are {after.events:,} events; the last update had {before.events:,}.",
            {"events": float(after.events), "before": float(before.events)},
        )
    ]
    moved = drift(before, after)
    gone = sorted(set(before.columns) - set(after.columns))
    far = {name: value for name, value in moved.items() if value > settings.drift}
    if gone:
        said = f"Columns are missing since the last update: {', '.join(gone)}."
    elif far:
        shown = ", ".join(f"{name} {value:.2f}" for name, value in sorted(far.items(), key=lambda one: -one[1]))
        said = f"Columns have drifted since the last update (stability index above {settings.drift:g}): {shown}."
    else:
        most = max(moved.values(), default=0.0)
        said = f"No column has drifted since the last update (highest stability index {most:.2f})."
    return [*gates, Gate("drift", not (gone or far), said, dict(moved))]


def score_gate(found: WarmStartEvaluation, settings: GateSettings) -> Gate:
    """Passes unless the new bundle scores significantly below the old one on the same events, under either protocol."""
    whole = [one for one in found.comparisons if one.name == named("all events")]
    passed = all(_is_not_below(one, settings.tolerance) for one in whole)
    figures = {f"{one.protocol}.{found.metric}": one.difference for one in whole}
    widths = {f"{one.protocol}.{found.metric}.half_width": one.half_width for one in whole}
    shown = ", ".join(f"{one.difference:+.4f}{_width(one)} {one.protocol}" for one in whole)
    verdict = "is not below" if passed else "is below"
    of_which = f"{whole[0].events:,} events ({metric_label(found.metric)}: {shown})"
    said = f"The score {verdict} the old bundle's on the same {of_which}."
    if all(one.half_width is None for one in whole):
        said += " There are too few queries for an interval."
    return Gate("score", passed, said, {**figures, **widths})


def coverage_gate(found: WarmStartEvaluation, settings: GateSettings) -> Gate:
    """Whether the top-10 lists still cover enough of the catalogue."""
    before, after = found.coverage["before"], found.coverage["after"]
    passed = after >= settings.coverage * before
    said = f"Top-10 lists cover {after:.1%} of the catalogue; the old bundle's cover {before:.1%}."
    return Gate("coverage", passed, said, {"before": before, "after": after})


def _is_not_below(found: Comparison, tolerance: float) -> bool:
    return found.difference + (found.half_width or 0.0) + tolerance >= 0


def _width(found: Comparison) -> str:
    return "" if found.half_width is None else f" ± {found.half_width:.4f}"
