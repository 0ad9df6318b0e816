"""A study's results as a note stored in a bundle and shown with it."""

from __future__ import annotations

from pathlib import Path

from twotower.errors import ConfigError
from twotower.experiments.results import RESULTS, Study, read_results
from twotower.retrieval.bundle import Details
from twotower.retrieval.notes import Curve, StudyNote


def study_note(folder: Path, details: Details) -> StudyNote:
    """The results of a study as a note for a bundle trained on the same data.

    Args:
        folder: A folder written by `twotower study`.
        details: The bundle's details: the name of its data and, if `twotower train` made it, the fingerprint of its
            split.

    Raises:
        ConfigError: The study used other data or another split.
        SavedFolderError: The folder holds no study's results.
    """
    study = read_results(folder / RESULTS)
    split, fingerprint = details.notes.split or "unknown", details.notes.fingerprint
    if not any(cut.name == details.data and fingerprint in (None, cut.fingerprint) for cut in study.cuts):
        first = study.cuts[0]
        raise ConfigError(
            f"{folder} is a study of {first.name}, split {first.split}, fingerprint {first.fingerprint}; the bundle "
            f"was trained on {details.data}, split {split}, fingerprint {fingerprint}: expected the same data and split"
        )
    return note_of(study)


def note_of(study: Study) -> StudyNote:
    """The curve of each variant (of its first split and seed), the baselines on the same part, and the verdicts."""
    first = {number: runs[0] for number in range(len(study.variants)) if (runs := study.runs_of(number))}
    curves = [
        Curve(
            study.variants[number].name,
            [(point.epoch, point.all[study.metric]) for point in run.outcome.curve if study.metric in point.all],
        )
        for number, run in first.items()
    ]
    baselines = study.baseline_scores(study.curves_on, [run.cut for run in first.values()][:1])
    return StudyNote(
        metric=study.metric,
        curves=curves,
        baselines={name: scores.all[study.metric] for name, scores in baselines.items() if study.metric in scores.all},
        verdicts=study.verdicts,
        command=study.command,
        created=study.created,
    )
