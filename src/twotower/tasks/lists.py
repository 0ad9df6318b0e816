"""How lists are made of a step's events: those of a column, drawn from a query's own, or a choice with negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.errors import ConfigError
from twotower.tasks.step import Step

POOL = 512
"""Candidates drawn for a step, of which those that the retriever scores highest become a list's negatives."""


@dataclass(frozen=True)
class Lists:
    """Lists of events, or of candidates that are no events.

    Attributes:
        events: Row of the event whose query side each member has, `[L, n]`.
        candidates: Row of each member's candidate, `[L, n]`.
        relevance: Of each member, `[L, n]`.
        mask: Which members are there, `[L, n]`.
    """

    events: Tensor
    candidates: Tensor
    relevance: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.events)

    def beside(self, other: Lists) -> Lists:
        """The members of both, list by list."""
        names = "events", "candidates", "relevance", "mask"
        return Lists(*(torch.cat([getattr(self, name), getattr(other, name)], dim=1) for name in names))


class ListSource(Protocol):
    """What makes lists of a step's events."""

    def __call__(self, step: Step) -> Lists | None:
        """The lists; None where the step has none."""
        ...


class Groups:
    """Events in groups, `[N]` members in all.

    Args:
        groups: The group of each event, `[N]`; below 0: none.
    """

    def __init__(self, groups: npt.NDArray[np.int64]) -> None:
        members = np.flatnonzero(groups >= 0)
        members = members[np.argsort(groups[members], kind="stable")]
        _, group, sizes = np.unique(groups[members], return_inverse=True, return_counts=True)
        starts = np.cumsum(sizes) - sizes
        own = np.full(len(groups), -1, dtype=np.int64)
        own[members] = group
        leads = np.zeros(len(groups), dtype=bool)
        leads[members[starts]] = True
        self.members, self.starts, self.sizes = map(torch.from_numpy, (members, starts, sizes))
        self.group, self.leads = torch.from_numpy(own), torch.from_numpy(leads)

    def to(self, device: torch.device) -> Groups:
        """The same, moved to a device."""
        for name in ("members", "starts", "sizes", "group", "leads"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class WholeGroups:
    """A list is a group: one comes with the step that has its first event, so that each comes once an epoch.

    Args:
        groups: The groups.
        targets: Relevance of each event of train, `[N]`.
        longest: Members of a list, at most; of more, so many are drawn.
    """

    def __init__(self, groups: Groups, targets: Tensor, longest: int) -> None:
        self.groups, self.targets, self.longest = groups, targets, longest

    def __call__(self, step: Step) -> Lists | None:
        """The lists whose first event is in the step."""
        groups = self.groups.to(step.rows.device)
        found = groups.group[step.rows[groups.leads[step.rows]]]
        if len(found) == 0:
            return None
        sizes = groups.sizes[found]
        row = torch.repeat_interleave(torch.arange(len(found), device=found.device), sizes)
        first = torch.cumsum(sizes, dim=0) - sizes
        entry = groups.starts[found][row] + torch.arange(len(row), device=row.device) - first[row]
        members = groups.members[entry]
        # In an order of chance, by which members of long lists are left out, and in which equal ones come.
        order = torch.argsort(row + torch.rand(len(row), dtype=torch.float64, device=row.device))
        column = torch.arange(len(row), device=row.device) - first[row]  # rows stay side by side in that order
        kept = column < self.longest
        shape = len(found), min(self.longest, int(sizes.max()))
        events = members.new_zeros(shape)
        mask = torch.zeros(shape, dtype=torch.bool, device=row.device)
        events[row[kept], column[kept]] = members[order][kept]
        mask[row[kept], column[kept]] = True
        return Lists(events, step.events.candidate_rows[events], self.targets.to(events.device)[events], mask)


class DrawnFromGroup:
    """A list is an event and others drawn from its group; an event that is drawn again counts once.

    Args:
        groups: The groups.
        targets: Relevance of each event of train, `[N]`.
        size: Members of a list.
    """

    def __init__(self, groups: Groups, targets: Tensor, size: int) -> None:
        self.groups, self.targets, self.size = groups, targets, size

    def __call__(self, step: Step) -> Lists | None:
        """A list for each event of the step that is in a group."""
        groups = self.groups.to(step.rows.device)
        own = step.rows[groups.group[step.rows] >= 0]
        if len(own) == 0:
            return None
        group = groups.group[own][:, None]
        draw = torch.rand(len(own), self.size - 1, dtype=torch.float64, device=own.device)
        others = groups.members[groups.starts[group] + (draw * groups.sizes[group]).long()]
        events = torch.cat([own[:, None], others], dim=1)  # [L, size]
        again = (events[:, :, None] == events[:, None, :]).tril(-1).any(dim=2)
        return Lists(events, step.events.candidate_rows[events], self.targets.to(events.device)[events], ~again)


class Alone:
    """A list is an event that was chosen, to be joined by negatives.

    Args:
        targets: Relevance of each event of train, `[N]`; None where all are choices.
    """

    def __init__(self, targets: Tensor | None) -> None:
        self.targets = targets

    def __call__(self, step: Step) -> Lists | None:
        """A list for each event of the step that was chosen."""
        rows = step.rows
        relevance = torch.ones(len(rows), device=rows.device)
        if self.targets is not None:
            relevance = self.targets.to(rows.device)[rows]
            rows, relevance = rows[relevance > 0], relevance[relevance > 0]
        if len(rows) == 0:
            return None
        events = rows[:, None]
        return Lists(events, step.events.candidate_rows[events], relevance[:, None], torch.ones_like(events).bool())


def with_uniform(lists: Lists, count: int, catalogue: int) -> Lists:
    """The lists with candidates drawn uniformly, of relevance 0; those that a list has already are left out."""
    drawn = torch.randint(catalogue, (len(lists), count), device=lists.events.device)
    return _with(lists, drawn)


def with_hard(lists: Lists, count: int, catalogue: int, step: Step) -> Lists:
    """The lists with those candidates of a drawn pool that the retriever scores highest, of relevance 0.

    Raises:
        ConfigError: Nothing trains the towers to retrieve.
    """
    if step.queries.vectors.shape[1] == 0:
        raise ConfigError("negatives from the retriever need embeddings; expected Retrieval among the tasks")
    with torch.no_grad():
        pool = torch.randint(catalogue, (min(POOL, catalogue),), device=lists.events.device)
        scores = step.queries_of(lists.events[:, 0]).vectors @ step.candidates_of(pool).vectors.T  # [L, pool]
        theirs = (pool[None, :, None] == lists.candidates.masked_fill(~lists.mask, -1)[:, None, :]).any(dim=2)
        best = scores.masked_fill(theirs, -torch.inf).topk(min(count, len(pool)), dim=1).indices
    return _with(lists, pool[best])


def _with(lists: Lists, candidates: Tensor) -> Lists:
    """The lists with further candidates, asked about by the query of each list's first event."""
    known = lists.candidates.masked_fill(~lists.mask, -1)
    theirs = (candidates[:, :, None] == known[:, None, :]).any(dim=2)
    again = (candidates[:, :, None] == candidates[:, None, :]).tril(-1).any(dim=2)
    events = lists.events[:, :1].expand(-1, candidates.shape[1])
    return lists.beside(Lists(events, candidates, torch.zeros_like(candidates).float(), ~(theirs | again)))


def groups_by(train: Dataset, column: str | None) -> npt.NDArray[np.int64]:
    """The group of each event: by a column of the interactions, or by its query, `[N]`; below 0 where it is missing."""
    if column is None:
        return train.query_index
    values = train.interactions[column].combine_chunks().dictionary_encode()
    numbers: npt.NDArray[np.int64] = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers
