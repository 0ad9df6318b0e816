"""Arrow tables as files: written plainly, and read so that a file from a stranger cannot claim more than it holds."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

MAGIC = b"ARROW1\0\0"
"""How an Arrow file begins; a stream of messages follows."""

BATCHES = ("record batch", "dictionary")


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table as an Arrow file, uncompressed."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def table_bytes(table: pa.Table) -> pa.Buffer:
    """What `write_table` writes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


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
