"""`Ranks`: the processes that train one model together, how they split rows, and their collective operations."""

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

# PyTorch 2.13 renames these and deprecates the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Ranks:
    """The processes that do one piece of work together; a single process is a group of one.

    Args:
        rank: Number of this process.
        size: Number of processes.

    Attributes:
        traffic: Bytes, calls and seconds of this rank's collective operations.

    Example:
        >>> Ranks(1, 3).part(10), Ranks(2, 3).part(10), Ranks(1, 3).part(2)
        (slice(3, 6, None), slice(6, 10, None), slice(0, 2, None))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.traffic = rank, size, Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which logs and writes files for all."""
        return self.rank == 0

    def shares(self, rows: int) -> bool:
        """Whether `rows` rows are split: there are several ranks, and a row for each. Otherwise each has all rows."""
        return 1 < self.size <= rows

    def part(self, rows: int) -> slice:
        """This rank's part of `rows` rows; all of them if they are not split."""
        if not self.shares(rows):
            return slice(0, rows)
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def counted(self, rows: int) -> slice:
        """The rows that this rank counts, such that every row is counted on exactly one rank."""
        return self.part(rows) if self.is_first or self.shares(rows) else slice(0, 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce: sums all ranks' tensors in place; the result has the same bits on every rank."""
        if self.size > 1:
            with self.traffic.of("sum", tensor):
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrites `tensor` with the first rank's."""
        if self.size > 1:
            with self.traffic.of("broadcast", tensor):
                dist.broadcast(tensor, 0)
        return tensor

    def gather(self, own: Tensor) -> Tensor:
        """All-gather: concatenates all ranks' tensors `[m, …]`, of equal shape, to `[size · m, …]`."""
        own = own.contiguous()
        if self.size == 1:
            return own
        whole = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        with self.traffic.of("gather", own):
            _all_gather(whole, own)
        return whole

    def gather_parts(self, own: Tensor, rows: int) -> Tensor:
        """All-gather for unequal parts: concatenates every rank's `part` to the whole `[rows, …]`."""
        if not self.shares(rows):
            return own
        longest = -(-rows // self.size)
        if rows % self.size == 0:
            return self.gather(own)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        return self.gather(padded)[self._places(rows, own.device)]

    def sum_parts(self, whole: Tensor) -> Tensor:
        """Reduce-scatter: this rank's part of the sum of all ranks' tensors `[rows, …]`."""
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
        """All-to-all: sends rows to each rank, and returns those it received, in rank order: `[Σ received, …]`.

        Args:
            own: Rows to send, in rank order, `[Σ sent, …]`.
            sent: Number of rows for each rank.
            received: Number of rows from each rank.
        """
        own = own.contiguous()
        found = own.new_empty(sum(received), *own.shape[1:])
        with self.traffic.of("exchange", own):
            dist.all_to_all_single(found, own, received, sent)
        return found

    def gather_messages(self, message: Any) -> list[Any]:
        """All-gather of plain data that JSON can hold, in rank order."""
        if self.size == 1:
            return [message]
        return [msgspec.json.decode(raw) for raw in self.gather_bytes(msgspec.json.encode(message))]

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """All-gather of byte strings, in rank order; their lengths may differ."""
        if self.size == 1:
            return [own]
        raw = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else torch.empty(0, dtype=torch.uint8)
        raw = raw.to(message_device())
        lengths = self.gather(raw.new_tensor([len(raw)], dtype=torch.int64)).tolist()
        padded = raw.new_zeros(max(lengths))
        padded[: len(raw)] = raw
        rows = self.gather(padded).view(self.size, -1).cpu().numpy()
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def together(self, make: Callable[[], T]) -> T:
        """Calls `make` on every rank; if it fails on any, the error of the lowest such rank is raised on all.

        Args:
            make: Called on every rank. It must not call collective operations.

        Raises:
            TwoTowerError: Some rank raised one.
        """
        if self.size == 1:
            return make()
        failed: TwoTowerError | None = None
        try:
            value = make()
        except TwoTowerError as error:
            failed = error
        each = self.gather_messages(None if failed is None else [type(failed).__name__, str(failed)])
        for rank, (kind, message) in ((rank, one) for rank, one in enumerate(each) if one is not None):
            raise failed if rank == self.rank and failed is not None else _error(kind, rank, message)
        return value

    def from_first(self, make: Callable[[], T], kind: Any) -> T:
        """Calls `make` on the first rank only and returns its result, or raises its error, on every rank.

        Args:
            make: Called on the first rank only.
            kind: The type of the result, which JSON must be able to hold.
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
        """Checks that all ranks have the same values.

        Args:
            found: This rank's values, by name.
            expected: What was expected, or what to do about a difference; ends the error message.

        Raises:
            ConfigError: Some rank differs; raised on every rank.
        """
        each = self.gather_messages(dict(found))
        for rank, other in enumerate(each):
            names = [*each[0], *(name for name in other if name not in each[0])]
            if differing := [name for name in names if other.get(name) != each[0].get(name)]:
                differences = ", ".join(f"{name} {other.get(name)} and {each[0].get(name)}" for name in differing)
                raise ConfigError(f"rank {rank} and rank 0 differ in {differences}; {expected}")

    def _message(self, raw: bytes) -> Any:
        """Broadcasts the first rank's message."""
        device = message_device()
        length = int(self.broadcast(torch.tensor([len(raw)], device=device)))
        buffer = torch.zeros(length, dtype=torch.uint8, device=device)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
        return msgspec.json.decode(bytes(self.broadcast(buffer).tolist()))

    def _places(self, rows: int, device: torch.device) -> Tensor:
        """Position of each row among parts that are padded to the longest, `[rows]`."""
        longest = -(-rows // self.size)
        begins = torch.tensor([rows * rank // self.size for rank in range(self.size + 1)], device=device)
        numbers = torch.arange(rows, device=device)
        rank = torch.searchsorted(begins, numbers, right=True) - 1
        return rank * longest + numbers - begins[rank]


ALONE = Ranks()
"""A single process."""

_current: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def current_ranks() -> Ranks:
    """The ranks that run the current block together; `ALONE` outside `joined`."""
    return _current.get()


@contextmanager
def joined(ranks: Ranks) -> Iterator[Ranks]:
    """In the block, all these ranks run the same code and split the rows of expensive work."""
    token = _current.set(ranks)
    try:
        yield ranks
    finally:
        _current.reset(token)


def ranks_of_process() -> Ranks:
    """The ranks of PyTorch's default process group; `ALONE` if there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def launched() -> Iterator[Ranks]:
    """If `torchrun` started this process, sets up the process group for the duration of the block.

    CPU tensors are exchanged by gloo, CUDA tensors by nccl; each rank of a machine uses its own CUDA device. An error
    that leaves the block has `is_reported` set on all ranks but the one that raised first.
    """
    if launched_rank() is None or dist.is_initialized():
        yield ranks_of_process()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    # After a restart, torchrun's store may still hold the addresses of processes that it killed.
    prefix = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    attempt = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size)
    try:
        yield ranks_of_process()
    except TwoTowerError as error:
        error.is_reported = not _is_first_error(attempt)
        raise
    except BaseException:
        _is_first_error(attempt)
        raise
    finally:
        dist.destroy_process_group()


def shared_rows(make: Callable[[Tensor], Sequence[Tensor]], rows: Tensor) -> Sequence[Tensor]:
    """Computes `make(rows)` for `rows` `[n]`, split between ranks: tensors `[n, …]`, with gradient.

    Each joined rank computes its part and receives the whole. Each rank then has a part of the gradient: if every
    rank's loss is divided by the number of ranks, the sum over ranks is the gradient of the whole computation. Without
    gradients, rows are not split.
    """
    ranks = current_ranks()
    if not (ranks.shares(len(rows)) and torch.is_grad_enabled()):
        return make(rows)
    part = ranks.part(len(rows))
    with part_of_rows(part, len(rows)):
        own = make(rows[part])
    return [_Gathered.apply(one, ranks, len(rows)) for one in own]  # type: ignore[no-untyped-call]


def summed(value: Tensor) -> Tensor:
    """Sums partial results over the joined ranks, with gradient; see `shared_rows`."""
    total: Tensor = _Summed.apply(value, current_ranks())  # type: ignore[no-untyped-call]
    return total


class _Gathered(torch.autograd.Function):
    """Gathers all ranks' parts; the gradient of a part is the sum of its gradients on all ranks."""

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
    """Sums parts; each part gets the whole gradient, so a rank's gradient is multiplied by the number of ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.size = ranks.size
        return ranks.sum(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.size, None


def _error(kind: str, rank: int, message: str) -> TwoTowerError:
    """Rebuilds an error that another rank raised."""
    return _ERRORS.get(kind, TwoTowerError)(f"rank {rank}: {message}")


def _is_first_error(store: Any) -> bool:
    """Whether no other rank raised an error before; if the store is gone, the rank that hosted it failed first."""
    try:
        return bool(store.add("errors", 1) == 1)
    except RuntimeError:
        return False


def message_device() -> torch.device:
    """Device for exchanging messages: the CPU, unless the group supports only nccl."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
