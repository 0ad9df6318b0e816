"""Finds the files that a path names (a file, a folder or a pattern) and the columns that their folder names encode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from twotower.data.inference import inferred
from twotower.data.origin import Format, TableFile
from twotower.errors import DataError

FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".br")
"""Extensions that may follow those of text files."""

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for null in a folder name."""


def table_files(
    source: str | Path, which: str, formats: Sequence[Format] = ("parquet", "csv", "json")
) -> list[TableFile]:
    """The files of a table, sorted by name.

    Folders named `column=value` add a column if they are below the given folder, or at or after the first `*`, `?`
    or `[` of a pattern. Files and folders whose names begin with `.` or `_` are skipped, as in Spark and Hive.

    Args:
        source: Path of a file or folder, or a pattern such as `events/2024-*/*.parquet`; `**` matches folders at any
            depth.
        which: Name of the table in errors.
        formats: The accepted formats.

    Raises:
        DataError: No file is found, an extension is not of an accepted format, the files are in several formats, or
            their folders give different columns; or the path is an address such as `https://…`.
    """
    if is_url(str(source)):
        raise DataError(f"{which}: {source} is an address; expected the path of a file: download it first")
    path = in_home(source)
    expected = ", ".join(ending for ending, kind in FORMATS.items() if kind in formats)
    if path.is_dir():
        files = _below(path, path, formats)
        if not files:
            raise DataError(f"{which}: the folder {path} holds no file that ends in {expected}")
    elif not path.exists() and _is_pattern(str(path)):
        files = _matching(path, which, formats)
        if not files:
            raise DataError(f"{which}: no file matches {path}; expected files that end in {expected}")
    elif not path.exists():
        raise DataError(f"{which}: {path} does not exist; expected a file that ends in {expected}, or a folder of them")
    else:
        files = [_file(path, path.parent, which, formats)]
    refuse_mixtures(files, which)
    return files


def in_home(source: str | Path) -> Path:
    """A path, with the home folder in place of a leading `~`."""
    path = Path(source)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def is_url(source: str) -> bool:
    """Whether it is an address such as `https://…` or `s3://…`."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]+:/", source) is not None


def partition_values(files: Sequence[TableFile]) -> list[dict[str, pa.Scalar]]:
    """The columns that folder names give each file; a column whose values all look like numbers or dates is parsed."""
    values: list[dict[str, pa.Scalar]] = [{} for _ in files]
    for place, (name, _) in enumerate(files[0].partition if files else ()):
        texts = pa.chunked_array([[file.partition[place][1] for file in files]], pa.string())
        for own, value in zip(values, inferred(texts), strict=True):
            own[name] = value
    return values


def format_of(path: Path) -> Format | None:
    """The format of a file, from its name.

    Example:
        >>> format_of(Path("log.2024.csv.gz")), format_of(Path("log.xlsx"))
        ('csv', None)
    """
    endings = [ending.lower() for ending in path.suffixes]
    if not endings:
        return None
    if endings[-1] in COMPRESSED and len(endings) > 1:
        kind = FORMATS.get(endings[-2])
        return None if kind == "parquet" else kind
    return FORMATS.get(endings[-1])


def _file(path: Path, root: Path, which: str, formats: Sequence[Format]) -> TableFile:
    kind = format_of(path)
    if kind is None or kind not in formats:
        expected = ", ".join(ending for ending, known in FORMATS.items() if known in formats)
        besides = ", text compressed as .gz, .bz2 or .zst" if "csv" in formats else ", to be streamed"
        raise DataError(f"{which}: {path} ends in {path.suffix!r}; expected {expected}{besides}, or a folder of them")
    return TableFile(path, kind, _partition(path.relative_to(root).parent))


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _matching(pattern: Path, which: str, formats: Sequence[Format]) -> list[TableFile]:
    """The files that match a pattern, and those in folders that match it."""
    root = _searched(pattern)
    files = []
    for path in sorted(root.glob(str(pattern.relative_to(root)))):
        if not _is_hidden(path.relative_to(root)):
            files += _below(path, root, formats) if path.is_dir() else [_file(path, root, which, formats)]
    return list(dict.fromkeys(files))


def _is_hidden(path: Path) -> bool:
    return any(part[0] in "._" for part in path.parts)


def _below(folder: Path, root: Path, formats: Sequence[Format]) -> list[TableFile]:
    """The files of a folder in an accepted format, at any depth."""
    files = []
    for path in sorted(folder.rglob("*")):
        kind = format_of(path)
        if kind is not None and kind in formats and not _is_hidden(path.relative_to(folder)) and path.is_file():
            files.append(TableFile(path, kind, _partition(path.relative_to(root).parent)))
    return files


def _searched(pattern: Path) -> Path:
    """The folder above the first wildcard of a pattern."""
    root = Path(pattern.anchor)
    for part in pattern.relative_to(root).parts:
        if _is_pattern(part):
            break
        root /= part
    return root


def _partition(folders: Path) -> tuple[tuple[str, str | None], ...]:
    pairs = [part.split("=", 1) for part in folders.parts if "=" in part[1:]]
    return tuple((unquote(name), None if value == NULL_PARTITION else unquote(value)) for name, value in pairs)


def refuse_mixtures(files: Sequence[TableFile], which: str) -> None:
    """Refuses files in several formats, or in folders that give different columns.

    Raises:
        DataError: Two files differ; names both.
    """
    first = files[0]
    for file in files:
        if file.format != first.format:
            raise DataError(
                f"{which}: {first.path} is {first.format} and {file.path} is {file.format}; expected one format, or a "
                f"pattern such as {file.path.parent}/*{file.path.suffix}"
            )
        names, others = ([name for name, _ in one.partition] for one in (first, file))
        if names != others:
            raise DataError(
                f"{which}: {first.path} gets the columns {names} from its folders, but {file.path} gets {others}; "
                f"expected the same columns for every file"
            )
