"""`Refusal`: why a request is refused, in the common shape of all errors."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 (the client's mistake, not an error of ours)
    """A request that is refused.

    Args:
        status: Its HTTP status.
        code: A code that programs may rely on.
        message: A message for people: what was found and what was expected.
        field: The part of the request it is about, such as `where` or `query.user_id`.
        headers: Additional headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})
