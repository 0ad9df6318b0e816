"""Tensor files that ranks write and read together: tensors are whole on disk, however ranks shard them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.ranks import Ranks
from twotower.shards import Shard

ShardOf = Callable[[str, int], Shard | None]
"""The shard of a tensor, given its name and number of dimensions; None if every rank holds all of it."""

_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names that safetensors uses for the dtypes of weights and moments."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    ranks: Ranks,
    shard_of: ShardOf,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file; collective: all ranks call it, and the first one writes.

    The rows of a sharded tensor are gathered block by block, and the first rank writes each block to the file.

    Args:
        path: The file.
        tensors: Tensors by name; for a sharded one, the rows that this rank holds.
        ranks: The ranks.
        shard_of: Gives the shard of each tensor.
        metadata: Texts by name, for the file's header.
    """
    shards = {name: shard for name, tensor in tensors.items() if (shard := shard_of(name, tensor.dim())) is not None}
    if not shards:
        if ranks.is_first:
            marks = None if metadata is None else dict(metadata)
            path.touch()  # safetensors would make a file that only its owner can read
            mode = path.stat().st_mode
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, marks)
            path.chmod(mode)
        return
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # wide dtypes first: aligned
    opened: AbstractContextManager[IO[bytes] | None] = path.open("wb") if ranks.is_first else nullcontext()
    with opened as file:
        if file is not None:
            file.write(_header({name: tensors[name] for name in names}, shards, metadata))
        for name in names:
            shard = shards.get(name)
            for block in [tensors[name]] if shard is None else shard.gathered(tensors[name]):
                if file is not None:
                    file.write(block.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def read_tensors(path: Path, ranks: Ranks, shard_of: ShardOf, device: torch.device) -> dict[str, Tensor]:
    """Reads what `write_tensors` wrote, with any number of ranks; collective: all call it, and the first one reads.

    Args:
        path: The file; only the first rank's is used.
        ranks: The ranks.
        shard_of: Gives the shard of each tensor: each rank gets the rows that it will hold.
        device: Device of the returned tensors.
    """
    with safe_open(path, framework="pt") if ranks.is_first else nullcontext() as file:

        def described() -> dict[str, tuple[list[int], str]]:
            assert file is not None
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            dtypes = {name: str(kind).removeprefix("torch.") for kind, name in _KINDS.items()}
            return {name: (one.get_shape(), dtypes[one.get_dtype()]) for name, one in slices.items()}

        found = {}
        for name, (shape, kind) in ranks.from_first(described, dict[str, tuple[list[int], str]]).items():
            options = {"dtype": getattr(torch, kind), "device": device}
            shard = shard_of(name, len(shape))
            if shard is None:
                whole = torch.empty(shape, **options) if file is None else file.get_tensor(name).to(device)
                found[name] = ranks.broadcast(whole)
            else:
                found[name] = _held(None if file is None else file.get_slice(name), shape, shard, options)
    return found


def _held(rows: Any, shape: list[int], shard: Shard, options: dict[str, Any]) -> Tensor:
    """This rank's rows of a sharded tensor `[rows, dim]`; `rows` is the tensor in the file, None on other ranks."""
    held = torch.empty(shard.held, shape[1], **options)
    for block in shard.blocks(shape[1]):
        size = block.stop - block.start, shape[1]
        whole = torch.empty(size, **options) if rows is None else rows[block].to(options["device"]).contiguous()
        own = shard.take(shard.ranks.broadcast(whole))
        held[block.start // shard.ranks.size :][: len(own)] = own
    return held


def _header(
    tensors: Mapping[str, Tensor], shards: Mapping[str, Shard], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Header of a safetensors file: the length of a JSON object, and the object with dtypes, shapes and offsets."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        rows = [shards[name].rows, *tensor.shape[1:]] if name in shards else list(tensor.shape)
        end = begin + torch.Size(rows).numel() * tensor.element_size()
        entries[name] = {"dtype": _KINDS[tensor.dtype], "shape": rows, "data_offsets": [begin, end]}
        begin = end
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
