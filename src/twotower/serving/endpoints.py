"""`Endpoint`: a path and its handler; `Call`: a parsed request; `Backend`: what handlers answer from."""

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
from twotower.serving.settings import MAX_TEXT_LENGTH


@dataclass
class Backend:
    """What handlers answer from.

    Attributes:
        served: The loaded bundle.
        engine: The thread that answers from it.
        metrics: The service's metrics.
        draining: Whether the service is shutting down and should get no more requests.
    """

    served: Served
    engine: Engine
    metrics: Metrics
    draining: bool = False


@dataclass(frozen=True)
class Call:
    """A parsed request: the id in its path, its parameters and its body."""

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
        if len(text) > MAX_TEXT_LENGTH:
            raise Refusal(
                400, "invalid", f"the id has {len(text)} characters; expected at most {MAX_TEXT_LENGTH}", "id"
            )
        return text


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of the service.

    Attributes:
        method: GET (and HEAD) or POST.
        path: Its path, in Starlette's syntax.
        handler: The function that answers.
        summary: What it does, for the OpenAPI document.
        answer: The struct of its answer; None for plain text.
        body: The struct of its body; None for no body.
        parameters: The struct of its query parameters.
        refusals: Error statuses besides those common to all endpoints.
        guarded: Whether it requires the token.
        id_of: What the id in its path identifies, such as `candidate`.
        changes: Whether it changes what is served, and so refuses cross-origin requests.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[msgspec.Struct] | None
    body: type[msgspec.Struct] | None = None
    parameters: type[msgspec.Struct] = NoParameters
    refusals: Sequence[int] = ()
    id_of: str = ""
    guarded: bool = True
    changes: bool = False

    @property
    def name(self) -> str:
        """Its operation id in the OpenAPI document."""
        return self.handler.__name__
