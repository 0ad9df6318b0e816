"""Arrow tables as files that cannot claim more than they hold, and digests of what tables contain."""

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
"""How an Arrow file begins; a stream of messages follows."""

BATCHES = ("record batch", "dictionary")


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table as an Arrow file, uncompressed."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def table_bytes(table: pa.Table) -> bytes:
    """What `write_table` writes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(path: Path) -> pa.Table:
    """Reads what `write_table` wrote.

    The file is read whole, and all that Arrow makes of it are views of these bytes, each checked to lie within them.
    A compressed file is refused, as it could unpack to any size, and so are more rows than the bytes can hold.

    Raises:
        ValueError: It is no such file, or is damaged (`pyarrow.ArrowInvalid` among them).
    """
    raw = path.read_bytes()
    if not raw.startswith(MAGIC):
        raise ValueError(f"{path.name} is no Arrow file")
    stream = pa.py_buffer(memoryview(raw)[len(MAGIC) :])
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            if message.type in BATCHES and _is_compressed(message.metadata.to_pybytes(), message.type):
                raise ValueError(f"{path.name} is compressed; expected plain columns")
        table = pa.ipc.open_stream(stream).read_all()
        if table.num_rows > 8 * len(raw):
            raise ValueError(f"{path.name} claims {table.num_rows} rows in {len(raw)} bytes")
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return table


class Digest(Protocol):
    """Takes bytes in, as `hashlib.sha256()` does."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Takes in more bytes."""


def content_digest(table: pa.Table) -> str:
    """SHA-256 of what a table contains: column names, types, and every row's value or null, in order.

    It does not depend on how Arrow lays the values out: chunks, slices, dictionaries, validity bitmaps without nulls,
    padding and whatever lies under a null. So it is the same before and after a table is written and read.

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
    """Takes in the type, which rows are null, and the values of the others, of chunks that follow one another."""
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
    """Takes in the type and the values of chunks without nulls."""
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
    """The values of chunks of plain values, as bytes in pieces that, put together, do not depend on the chunks."""
    types = pa.types
    if types.is_binary(kind) or types.is_string(kind) or types.is_large_binary(kind) or types.is_large_string(kind):
        yield from (np.asarray(pc.binary_length(chunk), dtype=np.int64).tobytes() for chunk in chunks)
        yield from (_text_bytes(chunk) for chunk in chunks)
    elif types.is_boolean(kind):
        yield from (np.asarray(chunk.to_numpy(zero_copy_only=False), dtype=np.uint8).tobytes() for chunk in chunks)
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        yield from (_fixed_bytes(chunk, kind.bit_width // 8) for chunk in chunks)
    else:  # rare types, such as maps, by their values in Python
        yield from (f"{value!r}\n".encode() for chunk in chunks for value in chunk.to_pylist())


def _text_bytes(chunk: pa.Array) -> memoryview:
    """The letters of texts without nulls, one after the other."""
    _, offsets, letters = chunk.buffers()
    if letters is None or len(chunk) == 0:
        return memoryview(b"")
    large = pa.types.is_large_binary(chunk.type) or pa.types.is_large_string(chunk.type)
    ends = np.frombuffer(offsets, np.int64 if large else np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return memoryview(letters)[int(ends[0]) : int(ends[-1])]


def _fixed_bytes(chunk: pa.Array, width: int) -> memoryview:
    """The bytes of values of one width without nulls."""
    values = chunk.buffers()[1]
    if values is None:
        return memoryview(b"")
    return memoryview(values)[chunk.offset * width : (chunk.offset + len(chunk)) * width]


def _is_compressed(metadata: bytes, kind: str) -> bool:
    """Whether a message's buffers are compressed, by its header (a flatbuffer of Arrow's format/Message.fbs)."""
    message = struct.unpack_from("<I", metadata, 0)[0]
    header = _table(metadata, message, 2)
    assert header is not None  # Arrow has verified it
    batch = header if kind == BATCHES[0] else _table(metadata, header, 1)
    return batch is not None and _field(metadata, batch, 3) is not None


def _table(raw: bytes, table: int, number: int) -> int | None:
    """Place of the table that a field of a flatbuffer's table refers to; None where the field is not there."""
    field = _field(raw, table, number)
    return None if field is None else field + int(struct.unpack_from("<I", raw, field)[0])


def _field(raw: bytes, table: int, number: int) -> int | None:
    """Place of a field of a flatbuffer's table; None where it is not there."""
    fields = table - struct.unpack_from("<i", raw, table)[0]
    size = struct.unpack_from("<H", raw, fields)[0]
    if 4 + 2 * number >= size:
        return None
    offset = struct.unpack_from("<H", raw, fields + 4 + 2 * number)[0]
    return table + offset if offset else None
