"""`Refusal`: why a request is not answered, in the one shape that all errors have."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 (it is what the client did, not an error of ours)
    """A request that is not answered.

    Args:
        status: Its HTTP status.
        code: A word that programs may rely on.
        message: A sentence for people: what was found and what was expected.
        field: What of the request it is about, such as `where` or `query.user_id`.
        headers: Headers that go with it.
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
