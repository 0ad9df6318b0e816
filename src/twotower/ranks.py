"""`Ranks`: the processes that train one model together, how they share rows out, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor
from torch import distributed as dist

from twotower.errors import ConfigError, DataError, DataUnavailableError, SavedFolderError, TwoTowerError
from twotower.launch import launched_rank
from twotower.randomness import part_of_rows
from twotower.traffic import Traffic

T = TypeVar("T")

_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, DataUnavailableError, SavedFolderError)}

# PyTorch 2.13 has new names for these, and warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Ranks:
    """The processes that do one piece of work together; of a process alone, itself.

    Args:
        rank: Number of this one.
        size: How many there are.

    Attributes:
        traffic: What this one has exchanged.

    Example:
        >>> Ranks(1, 3).part(10), Ranks(2, 3).part(10), Ranks(1, 3).part(2)
        (slice(3, 6, None), slice(6, 10, None), slice(0, 2, None))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.traffic = rank, size, Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes for all."""
        return self.rank == 0

    def shares(self, rows: int) -> bool:
        """Whether so many rows are shared out: there are others, and a row for each. Else each rank has all rows."""
        return 1 < self.size <= rows

    def part(self, rows: int) -> slice:
        """This rank's part of so many rows."""
        if not self.shares(rows):
            return slice(0, rows)
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def counted(self, rows: int) -> slice:
        """The rows that this rank counts, so that together all are counted once."""
        return self.part(rows) if self.is_first or self.shares(rows) else slice(0, 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, which is written to `tensor`; the same bits on every rank."""
        if self.size > 1:
            with self.traffic.of("sum", tensor):
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor, which is written to `tensor`."""
        if self.size > 1:
            with self.traffic.of("broadcast", tensor):
                dist.broadcast(tensor, 0)
        return tensor

    def gather(self, own: Tensor) -> Tensor:
        """All ranks' tensors `[m, …]`, which have the same shape, one after the other: `[size · m, …]`."""
        own = own.contiguous()
        if self.size == 1:
            return own
        whole = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        with self.traffic.of("gather", own):
            _all_gather(whole, own)
        return whole

    def gather_parts(self, own: Tensor, rows: int) -> Tensor:
        """The whole `[rows, …]`, given on each rank its `part`."""
        if not self.shares(rows):
            return own
        longest = -(-rows // self.size)
        if rows % self.size == 0:
            return self.gather(own)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        return self.gather(padded)[self._places(rows, own.device)]

    def sum_parts(self, whole: Tensor) -> Tensor:
        """This rank's part of the sum of all ranks' tensors `[rows, …]`."""
        rows = len(whole)
        if not self.shares(rows):
            return self.sum(whole.clone())
        longest, own = -(-rows // self.size), self.part(rows)
        padded = whole.contiguous()
        if rows % self.size:
            padded = whole.new_zeros(self.size * longest, *whole.shape[1:])
            padded[self._places(rows, whole.device)] = whole
        found = whole.new_empty(longest, *whole.shape[1:])
        with self.traffic.of("scatter", padded):
            _reduce_scatter(found, padded)
        return found[: own.stop - own.start]

    def exchange(self, own: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """What each rank has for this one, one after the other: `[Σ received, …]`.

        Args:
            own: Rows for each rank, one after the other, `[Σ sent, …]`.
            sent: How many of them are for each rank.
            received: How many rows each rank has for this one.
        """
        own = own.contiguous()
        found = own.new_empty(sum(received), *own.shape[1:])
        with self.traffic.of("exchange", own):
            dist.all_to_all_single(found, own, received, sent)
        return found

    def gather_messages(self, message: Any) -> list[Any]:
        """A piece of plain data from each rank, by rank."""
        if self.size == 1:
            return [message]
        return [msgspec.json.decode(raw) for raw in self.gather_bytes(msgspec.json.encode(message))]

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """Bytes of each rank, by rank; each may have another number of them."""
        if self.size == 1:
            return [own]
        raw = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else torch.empty(0, dtype=torch.uint8)
        raw = raw.to(_message_device())
        lengths = self.gather(raw.new_tensor([len(raw)], dtype=torch.int64)).tolist()
        padded = raw.new_zeros(max(lengths))
        padded[: len(raw)] = raw
        rows = self.gather(padded).view(self.size, -1).cpu().numpy()
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def together(self, make: Callable[[], T]) -> T:
        """What this rank makes; where some rank cannot, the error of the first such one is raised on every rank.

        Args:
            make: Called on every rank. It exchanges nothing with the others.

        Raises:
            TwoTowerError: Some rank has raised one.
        """
        if self.size == 1:
            return make()
        failed: TwoTowerError | None = None
        try:
            value = make()
        except TwoTowerError as error:
            failed = error
        each = self.gather_messages(None if failed is None else [type(failed).__name__, str(failed)])
        for rank, (kind, said) in ((rank, one) for rank, one in enumerate(each) if one is not None):
            raise failed if rank == self.rank and failed is not None else _error(kind, rank, said)
        return value

    def from_first(self, make: Callable[[], T], kind: Any) -> T:
        """What the first rank makes, on every rank; an error of its is raised on every rank.

        Args:
            make: Called on the first rank alone.
            kind: The type of what it makes, which JSON can hold.
        """
        if self.size == 1:
            return make()
        if not self.is_first:
            outcome = self._message(b"")
            if (error := outcome.get("error")) is not None:
                raise _error(outcome["kind"], 0, error)
            found: T = msgspec.convert(outcome["value"], kind)
            return found
        try:
            value = make()
        except TwoTowerError as error:
            self._message(msgspec.json.encode({"kind": type(error).__name__, "error": str(error)}))
            raise
        self._message(msgspec.json.encode({"value": value}))
        return value

    def require_same(self, found: Mapping[str, Any], expected: str) -> None:
        """Refuses to go on where ranks differ.

        Args:
            found: What this rank has, by name.
            expected: What to do about a difference, for the error.

        Raises:
            ConfigError: Some rank has something else; raised on every rank.
        """
        each = self.gather_messages(dict(found))
        for rank, other in enumerate(each):
            names = [*each[0], *(name for name in other if name not in each[0])]
            if differing := [name for name in names if other.get(name) != each[0].get(name)]:
                said = ", ".join(f"{name} {other.get(name)} and {each[0].get(name)}" for name in differing)
                raise ConfigError(f"rank {rank} and rank 0 differ in {said}; {expected}")

    def _message(self, raw: bytes) -> Any:
        """The first rank's message, on every rank."""
        device = _message_device()
        length = int(self.broadcast(torch.tensor([len(raw)], device=device)))
        room = torch.zeros(length, dtype=torch.uint8, device=device)
        if self.is_first:
            room.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
        return msgspec.json.decode(bytes(self.broadcast(room).tolist()))

    def _places(self, rows: int, device: torch.device) -> Tensor:
        """Where each row is among parts that are filled up to the longest, `[rows]`."""
        longest = -(-rows // self.size)
        begins = torch.tensor([rows * rank // self.size for rank in range(self.size + 1)], device=device)
        numbers = torch.arange(rows, device=device)
        rank = torch.searchsorted(begins, numbers, right=True) - 1
        return rank * longest + numbers - begins[rank]


ALONE = Ranks()
"""A process that nobody works with."""

_current: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def current_ranks() -> Ranks:
    """Those that do together what runs now; `ALONE` outside `joined`."""
    return _current.get()


@contextmanager
def joined(ranks: Ranks) -> Iterator[Ranks]:
    """Inside the block all these ranks do the same, and share out the rows of what is expensive."""
    token = _current.set(ranks)
    try:
        yield ranks
    finally:
        _current.reset(token)


def ranks_of_process() -> Ranks:
    """The ranks of PyTorch's default process group; `ALONE` where there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def launched() -> Iterator[Ranks]:
    """Joins the processes that `torchrun` has started, where it has; inside the block they are a process group.

    Tensors on a CPU are exchanged by gloo, those on CUDA devices by nccl; each rank of a machine takes a device of its
    own as the current one. An error that leaves the block has `is_said` on all ranks but the one that raised it first.
    """
    if launched_rank() is None or dist.is_initialized():
        yield ranks_of_process()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    # Torchrun's store may outlive an attempt, with the addresses of processes that it has killed.
    prefix = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    attempt = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size)
    try:
        yield ranks_of_process()
    except TwoTowerError as error:
        error.is_said = not _is_first_error(attempt)
        raise
    except BaseException:
        _is_first_error(attempt)
        raise
    finally:
        dist.destroy_process_group()


def shared_rows(make: Callable[[Tensor], Sequence[Tensor]], rows: Tensor) -> Sequence[Tensor]:
    """What `make` makes of `rows` `[n]`: tensors `[n, …]`, with gradient.

    Joined ranks make a part each and get the whole. A rank's gradients are then a part of the gradient: the sum of all
    ranks' is the gradient of what they computed together, each from a loss divided by the number of ranks. What needs
    no gradient is not shared out.
    """
    ranks = current_ranks()
    if not (ranks.shares(len(rows)) and torch.is_grad_enabled()):
        return make(rows)
    part = ranks.part(len(rows))
    with part_of_rows(part, len(rows)):
        own = make(rows[part])
    return [_Gathered.apply(one, ranks, len(rows)) for one in own]  # type: ignore[no-untyped-call]


def summed(value: Tensor) -> Tensor:
    """The sum over joined ranks of a tensor of which each has a part, with gradient; see `shared_rows`."""
    total: Tensor = _Summed.apply(value, current_ranks())  # type: ignore[no-untyped-call]
    return total


class _Gathered(torch.autograd.Function):
    """All ranks' parts; each part's gradient is the sum of what all ranks have."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, rows: int) -> Tensor:
        ctx.ranks, ctx.rows = ranks, rows
        if own.numel() == 0:
            return own.new_empty(rows, *own.shape[1:])
        return ranks.gather_parts(own, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if gradient.numel() == 0:
            return gradient[ctx.ranks.part(ctx.rows)], None, None
        return ctx.ranks.sum_parts(gradient), None, None


class _Summed(torch.autograd.Function):
    """The sum of parts; each rank's own part has the whole gradient, not the share that each rank brings."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.size = ranks.size
        return ranks.sum(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.size, None


def _error(kind: str, rank: int, said: str) -> TwoTowerError:
    """The error that another rank has raised."""
    return _ERRORS.get(kind, TwoTowerError)(f"rank {rank}: {said}")


def _is_first_error(store: Any) -> bool:
    """Whether no other rank has raised an error; a store that is gone is gone with a rank that has."""
    try:
        return bool(store.add("errors", 1) == 1)
    except RuntimeError:
        return False


def _message_device() -> torch.device:
    """Where messages are exchanged: on the CPU, unless the group has nccl alone."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
