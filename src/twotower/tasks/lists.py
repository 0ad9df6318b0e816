"""Makes lists from a step's events: grouped by a column, sampled from a query's events, or a choice with negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.availability import Availability
from twotower.errors import ConfigError
from twotower.model.interests import best_scores
from twotower.tasks.step import Events, Step

NEGATIVE_POOL = 512
"""Candidates drawn per step; those that the retriever scores highest become a list's negatives."""


@dataclass(frozen=True)
class Lists:
    """Padded lists of events, and of drawn candidates.

    Attributes:
        events: Row of the event that provides each member's query side, `[L, n]`.
        candidates: Row of each member's candidate, `[L, n]`.
        relevance: Relevance of each member, `[L, n]`.
        mask: False for padding, `[L, n]`.
    """

    events: Tensor
    candidates: Tensor
    relevance: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.events)

    def beside(self, other: Lists) -> Lists:
        """Joins the members of both, list by list."""
        names = "events", "candidates", "relevance", "mask"
        return Lists(*(torch.cat([getattr(self, name), getattr(other, name)], dim=1) for name in names))


class ListSource(Protocol):
    """Makes lists from a step's events."""

    def __call__(self, step: Step) -> Lists | None:
        """The lists; None if the step has none."""
        ...


class Groups:
    """Events sorted into groups.

    Args:
        groups: Group of each event, `[N]`; negative for events without a group.
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
        """Moves the groups to a device, in place."""
        for name in ("members", "starts", "sizes", "group", "leads"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class WholeGroups:
    """A list is a whole group. It belongs to the step with the group's first event, so each group comes once per epoch.

    Args:
        groups: The groups.
        targets: Relevance of each event in memory, `[N]`.
        longest: Maximum length of a list; longer groups are sampled down to it.
    """

    def __init__(self, groups: Groups, targets: Tensor, longest: int) -> None:
        self.groups, self.targets, self.longest = groups, targets, longest

    def __call__(self, step: Step) -> Lists | None:
        """The lists whose first event is in the step."""
        groups = self.groups
        found = groups.group[step.rows[groups.leads[step.rows]]]
        if len(found) == 0:
            return None
        sizes = groups.sizes[found]
        row = torch.repeat_interleave(torch.arange(len(found), device=found.device), sizes)
        first = torch.cumsum(sizes, dim=0) - sizes
        entry = groups.starts[found][row] + torch.arange(len(row), device=row.device) - first[row]
        members = groups.members[entry]
        # The random order decides which members of long lists are dropped, and the order of equally relevant ones.
        order = torch.argsort(row + torch.rand(len(row), dtype=torch.float64, device=row.device))
        column = torch.arange(len(row), device=row.device) - first[row]  # members of a list stay adjacent
        kept = column < self.longest
        shape = len(found), min(self.longest, int(sizes.max()))
        events = members.new_zeros(shape)
        mask = torch.zeros(shape, dtype=torch.bool, device=row.device)
        events[row[kept], column[kept]] = members[order][kept]
        mask[row[kept], column[kept]] = True
        return Lists(events, step.events.candidate_rows[events], self.targets[events], mask)


class DrawnFromGroup:
    """A list is an event and others sampled from its group; an event drawn twice counts once.

    Args:
        groups: The groups.
        targets: Relevance of each event in memory, `[N]`.
        size: Length of a list, including the event itself.
    """

    def __init__(self, groups: Groups, targets: Tensor, size: int) -> None:
        self.groups, self.targets, self.size = groups, targets, size

    def __call__(self, step: Step) -> Lists | None:
        """A list for each event of the step that has a group."""
        groups = self.groups
        own = step.rows[groups.group[step.rows] >= 0]
        if len(own) == 0:
            return None
        group = groups.group[own][:, None]
        draw = torch.rand(len(own), self.size - 1, dtype=torch.float64, device=own.device)
        others = groups.members[groups.starts[group] + (draw * groups.sizes[group]).long()]
        events = torch.cat([own[:, None], others], dim=1)  # [L, size]
        repeated = (events[:, :, None] == events[:, None, :]).tril(-1).any(dim=2)
        return Lists(events, step.events.candidate_rows[events], self.targets[events], ~repeated)


class MadeInMemory:
    """Lists of the events in memory; what they are made from is sorted again when other events are read.

    Args:
        make: Sorts events, and returns what makes lists from their steps.
    """

    def __init__(self, make: Callable[[Events], ListSource]) -> None:
        self._make = make
        self._events: Events | None = None
        self._lists: ListSource | None = None

    def __call__(self, step: Step) -> Lists | None:
        """The lists of the step's events."""
        if self._lists is None or step.events is not self._events:
            self._events, self._lists = step.events, self._make(step.events)
        return self._lists(step)


class SingleChoices:
    """A list is one chosen event, to which negatives are added later.

    Args:
        targets: Relevance of each event in memory, `[N]`; None if all are choices.
    """

    def __init__(self, targets: Tensor | None) -> None:
        self.targets = targets

    def __call__(self, step: Step) -> Lists | None:
        """A list for each event of the step that was chosen."""
        rows = step.rows
        relevance = torch.ones(len(rows), device=rows.device)
        if self.targets is not None:
            relevance = self.targets[rows]
            rows, relevance = rows[relevance > 0], relevance[relevance > 0]
        if len(rows) == 0:
            return None
        events = rows[:, None]
        return Lists(events, step.events.candidate_rows[events], relevance[:, None], torch.ones_like(events).bool())


Lacks = Callable[[Tensor, Tensor], Tensor]
"""Whether candidates were not available to events in memory; both are given by their rows and broadcast."""


def lacking(available: Availability | None, step: Step) -> Lacks | None:
    """What tells which candidates were not available to events of a step; None if all always were."""
    if available is None:
        return None
    assert step.events.times is not None
    times = step.events.times.cpu().numpy()

    def lacks(events: Tensor, candidates: Tensor) -> Tensor:
        missing = available.lacks(candidates.cpu().numpy(), times[events.cpu().numpy()])
        return torch.from_numpy(missing).to(events.device)

    return lacks


def with_uniform(lists: Lists, count: int, catalogue: int, lacks: Lacks | None = None) -> Lists:
    """Adds uniformly drawn candidates with relevance 0, except those already in the list and those not available."""
    drawn = torch.randint(catalogue, (len(lists), count), device=lists.events.device)
    return _with(lists, drawn, lacks)


def with_hard(lists: Lists, count: int, catalogue: int, step: Step, lacks: Lacks | None = None) -> Lists:
    """Adds the candidates of a drawn pool that the retriever scores highest, with relevance 0, if they are available.

    Raises:
        ConfigError: No task trains the towers for retrieval.
    """
    if step.queries.vectors.shape[1] == 0:
        raise ConfigError("negatives from the retriever need embeddings; expected Retrieval among the tasks")
    with torch.no_grad():
        pool = torch.randint(catalogue, (min(NEGATIVE_POOL, catalogue),), device=lists.events.device)
        scores = best_scores(step.queries_of(lists.events[:, 0]).vectors, step.candidates_of(pool).vectors)  # [L, pool]
        in_list = (pool[None, :, None] == lists.candidates.masked_fill(~lists.mask, -1)[:, None, :]).any(dim=2)
        left_out = in_list if lacks is None else in_list | lacks(lists.events[:, :1], pool[None, :])
        best = scores.masked_fill(left_out, -torch.inf).topk(min(count, len(pool)), dim=1).indices
    return _with(lists, pool[best], lacks)


def _with(lists: Lists, candidates: Tensor, lacks: Lacks | None) -> Lists:
    """Adds candidates to the lists, paired with the query of each list's first event.

    Duplicates, and what was not available to that event, are masked.
    """
    known = lists.candidates.masked_fill(~lists.mask, -1)
    in_list = (candidates[:, :, None] == known[:, None, :]).any(dim=2)
    repeated = (candidates[:, :, None] == candidates[:, None, :]).tril(-1).any(dim=2)
    events = lists.events[:, :1].expand(-1, candidates.shape[1])
    left_out = in_list | repeated if lacks is None else in_list | repeated | lacks(events, candidates)
    return lists.beside(Lists(events, candidates, torch.zeros_like(candidates).float(), ~left_out))
