"""`Endpoint`: one address and what answers there; `Call`: one request; `Backend`: what requests are answered from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from twotower.serving.engine import Engine
from twotower.serving.messages import NoParameters
from twotower.serving.metrics import Metrics
from twotower.serving.refusals import Refusal
from twotower.serving.replies import Reply
from twotower.serving.served import Served
from twotower.serving.settings import LONGEST_TEXT


@dataclass
class Backend:
    """What requests are answered from.

    Attributes:
        served: The bundle, loaded.
        engine: What answers from it, one thing after the other.
        metrics: What is counted.
        draining: Whether the service is ending and should get no more requests.
    """

    served: Served
    engine: Engine
    metrics: Metrics
    draining: bool = False


@dataclass(frozen=True)
class Call:
    """One request, read: the id in its path, its parameters and its body."""

    backend: Backend
    path: dict[str, str]
    parameters: Any
    body: Any

    @property
    def id(self) -> str:
        """The id in the path.

        Raises:
            Refusal: It is longer than an id can be.
        """
        text = self.path["id"]
        if len(text) > LONGEST_TEXT:
            raise Refusal(400, "invalid", f"the id has {len(text)} letters; expected at most {LONGEST_TEXT}", "id")
        return text


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """One address.

    Attributes:
        method: GET (and HEAD) or POST.
        path: Its path, as Starlette reads it.
        handler: What answers.
        summary: What it does, for the description.
        answer: The struct that it answers with; None for plain text.
        body: The struct that a body has to be; None for no body.
        parameters: The struct that the address's parameters have to be.
        refusals: Statuses of its own, besides those that all have.
        guarded: Whether the token is asked for.
        changes: Whether it changes what is served; not for pages of other origins.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[msgspec.Struct] | None
    body: type[msgspec.Struct] | None = None
    parameters: type[msgspec.Struct] = NoParameters
    refusals: Sequence[int] = ()
    guarded: bool = True
    changes: bool = False

    @property
    def name(self) -> str:
        """Its name in the description."""
        return self.handler.__name__
