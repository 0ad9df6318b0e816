"""Reads and writes Arrow tables, safely with untrusted files, and computes digests of table contents."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAGIC = b"ARROW1\0\0"
"""First bytes of an Arrow file; a stream of messages follows."""

BATCHES = ("record batch", "dictionary")


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table as an Arrow file, uncompressed."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def table_bytes(table: pa.Table) -> bytes:
    """The bytes that `write_table` would write."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(path: Path, *, mapped: bool = False) -> pa.Table:
    """Reads a table that `write_table` wrote.

    Arrow's buffers are views of the file's bytes, and each is checked to be within them. Refuses compressed files,
    which could unpack to any size, and row counts that exceed what the bytes can hold.

    Args:
        path: The file.
        mapped: Whether the file is memory-mapped instead of read: in memory once for all processes that map it. It must
            not be changed in place as long as the table is used.

    Raises:
        ValueError: It is not an Arrow file, or is damaged (includes `pyarrow.ArrowInvalid`).
    """
    raw = pa.py_buffer(path.read_bytes()) if not mapped or path.stat().st_size == 0 else _mapped(path)
    if memoryview(raw)[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path.name} is not an Arrow file")
    stream = raw.slice(len(MAGIC))
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            if message.type in BATCHES and _is_compressed(message.metadata.to_pybytes(), message.type):
                raise ValueError(f"{path.name} is compressed; expected plain columns")
        table = pa.ipc.open_stream(stream).read_all()
        if table.num_rows > 8 * raw.size:
            raise ValueError(f"{path.name} claims {table.num_rows} rows in {raw.size} bytes")
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return table


def _mapped(path: Path) -> pa.Buffer:
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


class Digest(Protocol):
    """A hash that is updated with bytes, such as `hashlib.sha256()`."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Hashes more bytes."""


def content_digest(table: pa.Table) -> str:
    """SHA-256 of a table's content: column names, types, and the value or null of every row, in order.

    It does not depend on the memory layout: chunks, slices, dictionary encoding, all-valid bitmaps, padding, or the
    bytes under a null. So a table has the same digest before it is written and after it is read.

    Example:
        >>> whole = pa.table({"word": ["toy", "story", "heat"]})
        >>> parts = pa.table({"word": pa.chunked_array([["toy"], ["story"]]).dictionary_encode()})
        >>> content_digest(whole.slice(0, 2)) == content_digest(parts), content_digest(whole) == content_digest(parts)
        (True, False)
    """
    digest = hashlib.sha256(f"{table.num_rows} rows, {table.num_columns} columns\n".encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{len(name.encode())} {name} ".encode())
        _digest_values(digest, column.chunks, column.type)
    return digest.hexdigest()


def _digest_values(digest: Digest, chunks: Sequence[pa.Array], kind: pa.DataType) -> None:
    """Hashes the type, the null mask and the non-null values of consecutive chunks."""
    if pa.types.is_dictionary(kind):
        _digest_values(digest, [chunk.dictionary_decode() for chunk in chunks], kind.value_type)
    elif pa.types.is_run_end_encoded(kind):
        _digest_values(digest, [pc.run_end_decode(chunk) for chunk in chunks], kind.value_type)
    elif isinstance(kind, pa.BaseExtensionType):
        _digest_values(digest, [chunk.storage for chunk in chunks], kind.storage_type)
    else:
        digest.update(f"{sum(map(len, chunks))} ".encode())
        for chunk in chunks:
            digest.update(np.asarray(chunk.is_valid().to_numpy(zero_copy_only=False), dtype=np.uint8).tobytes())
        _digest_present(digest, [chunk.drop_null() for chunk in chunks], kind)


def _digest_present(digest: Digest, chunks: Sequence[pa.Array], kind: pa.DataType) -> None:
    """Hashes the type and the values of chunks without nulls."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        size = kind.list_size if types.is_fixed_size_list(kind) else ""
        digest.update(f"{str(kind).partition('<')[0]}{size} ".encode())
        for chunk in chunks:
            digest.update(np.asarray(pc.list_value_length(chunk), dtype=np.int64).tobytes())
        _digest_values(digest, [chunk.flatten() for chunk in chunks], kind.value_type)
    elif types.is_struct(kind):
        digest.update(f"struct {kind.num_fields} ".encode())
        for number, field in enumerate(kind):
            digest.update(f"{field.name!r} ".encode())
            _digest_values(digest, [chunk.flatten()[number] for chunk in chunks], field.type)
    else:
        digest.update(f"{kind} ".encode())
        for part in _parts(chunks, kind):
            digest.update(part)


def _parts(chunks: Sequence[pa.Array], kind: pa.DataType) -> Iterator[bytes | memoryview]:
    """The bytes of non-nested chunks in pieces; concatenated, they do not depend on the chunk boundaries."""
    types = pa.types
    if types.is_binary(kind) or types.is_string(kind) or types.is_large_binary(kind) or types.is_large_string(kind):
        yield from (np.asarray(pc.binary_length(chunk), dtype=np.int64).tobytes() for chunk in chunks)
        yield from (_text_bytes(chunk) for chunk in chunks)
    elif types.is_boolean(kind):
        yield from (np.asarray(chunk.to_numpy(zero_copy_only=False), dtype=np.uint8).tobytes() for chunk in chunks)
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        yield from (_fixed_bytes(chunk, kind.bit_width // 8) for chunk in chunks)
    else:  # rare types, such as maps: hash the Python values
        yield from (f"{value!r}\n".encode() for chunk in chunks for value in chunk.to_pylist())


def _text_bytes(chunk: pa.Array) -> memoryview:
    """The concatenated characters of a text chunk without nulls."""
    _, offsets, letters = chunk.buffers()
    if letters is None or len(chunk) == 0:
        return memoryview(b"")
    large = pa.types.is_large_binary(chunk.type) or pa.types.is_large_string(chunk.type)
    ends = np.frombuffer(offsets, np.int64 if large else np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return memoryview(letters)[int(ends[0]) : int(ends[-1])]


def _fixed_bytes(chunk: pa.Array, width: int) -> memoryview:
    """The bytes of a fixed-width chunk without nulls."""
    values = chunk.buffers()[1]
    if values is None:
        return memoryview(b"")
    return memoryview(values)[chunk.offset * width : (chunk.offset + len(chunk)) * width]


def _is_compressed(metadata: bytes, kind: str) -> bool:
    """Whether a message's buffers are compressed, from its header (a flatbuffer of Arrow's format/Message.fbs)."""
    message = struct.unpack_from("<I", metadata, 0)[0]
    header = _table(metadata, message, 2)
    assert header is not None  # Arrow has verified it
    batch = header if kind == BATCHES[0] else _table(metadata, header, 1)
    return batch is not None and _field(metadata, batch, 3) is not None


def _table(raw: bytes, table: int, number: int) -> int | None:
    """Offset of the table that a field of a flatbuffer table refers to; None if the field is absent."""
    field = _field(raw, table, number)
    return None if field is None else field + int(struct.unpack_from("<I", raw, field)[0])


def _field(raw: bytes, table: int, number: int) -> int | None:
    """Offset of a field of a flatbuffer table; None if it is absent."""
    fields = table - struct.unpack_from("<i", raw, table)[0]
    size = struct.unpack_from("<H", raw, fields)[0]
    if 4 + 2 * number >= size:
        return None
    offset = struct.unpack_from("<H", raw, fields + 4 + 2 * number)[0]
    return table + offset if offset else None
