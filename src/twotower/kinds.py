"""`Kinds`: implementations of one protocol by their `kind`, the name that configs and saved folders have for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from twotower.arguments import shortened
from twotower.errors import ConfigError

T = TypeVar("T", bound=type)
C = TypeVar("C", bound=type)


class Kinds(Generic[T]):
    """The classes that implement one protocol, those of the package and those that users register.

    A class says its kind in a class attribute `kind`; a `msgspec.Struct`, such as `Settings`, in its tag.

    Args:
        what: What they are, in errors: `loss`.

    Example:
        >>> SHAPES: Kinds[type] = Kinds("shape")
        >>> @SHAPES.register
        ... class Square:
        ...     kind = "square"
        ...     def __init__(self, side: float = 1.0) -> None:
        ...         self.side = side
        >>> SHAPES.make({"kind": "square", "side": 2.0}).side
        2.0
        >>> SHAPES["circle"]
        Traceback (most recent call last):
        twotower.errors.ConfigError: shape kind 'circle' is unknown; expected one of square (for a kind of your own, \
import the module that defines it first; in commands: --import MODULE)
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._classes: dict[str, Any] = {}

    def register(self, implementation: C) -> C:
        """Makes a class known by its kind; to be written above the class as `@LOSSES.register`.

        Running its definition again, as notebooks do, replaces it.

        Raises:
            ConfigError: It has no kind, or another class has the same.
        """
        kind = kind_of(implementation)
        if kind is None:
            raise ConfigError(
                f"{implementation.__name__} has no kind; expected a class attribute kind = '…', "
                f"or of a Settings tag='…', tag_field='kind'"
            )
        known = self._classes.get(kind)
        if known is not None and _address(known) != _address(implementation):
            raise ConfigError(f"{self.what} kind {kind!r} is taken by {_address(known)}; expected another kind")
        self._classes[kind] = implementation
        return implementation

    def __getitem__(self, kind: str) -> T:
        found: T | None = self._classes.get(kind) if isinstance(kind, str) else None
        if found is None:
            raise ConfigError(
                f"{self.what} kind {kind!r} is unknown; expected one of {', '.join(sorted(self._classes))} "
                f"(for a kind of your own, import the module that defines it first; in commands: --import MODULE)"
            )
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    @property
    def own(self) -> list[str]:
        """The kinds that are not the package's."""
        return [kind for kind, found in self._classes.items() if not found.__module__.startswith("twotower.")]

    def make(self, settings: Mapping[str, Any]) -> Any:
        """An instance by its settings: the `kind`, and arguments by name.

        Raises:
            ConfigError: The kind is unknown, or an argument is unknown, missing or wrong.
        """
        arguments = dict(settings)
        kind = arguments.pop("kind", None)
        implementation: Any = self[kind]
        try:
            if issubclass(implementation, msgspec.Struct):
                return msgspec.convert(arguments, implementation)
            inspect.signature(implementation).bind(**arguments)
        except (TypeError, msgspec.ValidationError) as error:
            expected = ", ".join(inspect.signature(implementation).parameters)
            given = shortened(arguments)
            raise ConfigError(f"{self.what} {kind!r} with {given}: {error}; expected of {expected}") from error
        try:
            return implementation(**arguments)
        except TypeError as error:  # of one that hands what it does not know on
            raise ConfigError(f"{self.what} {kind!r} cannot be made: {error}") from error


def kind_of(implementation: type) -> str | None:
    """The kind that a class says it is; None where it says none."""
    if issubclass(implementation, msgspec.Struct):
        tag = implementation.__struct_config__.tag
        return tag if isinstance(tag, str) else None
    return getattr(implementation, "kind", None)


def _address(implementation: type) -> str:
    return f"{implementation.__module__}.{implementation.__qualname__}"
