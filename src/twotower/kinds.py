"""`Kinds`: a registry of the implementations of a protocol by `kind`, their name in configs and saved folders."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from twotower.arguments import shortened
from twotower.errors import ConfigError, unknown_among

T = TypeVar("T", bound=type)
C = TypeVar("C", bound=type)


class Kinds(Generic[T]):
    """A registry of the classes that implement a protocol: built-in ones and those that users register.

    A class declares its kind in a class attribute `kind`; a `msgspec.Struct`, such as `Settings`, in its tag.

    Args:
        what: What errors call the implementations, such as `loss`.

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
        """Registers a class under its kind; use as a class decorator, `@LOSSES.register`.

        Running the definition again, as in a notebook, replaces the class.

        Raises:
            ConfigError: It has no kind, or another class has the same kind.
        """
        kind = kind_of(implementation)
        if kind is None:
            raise ConfigError(
                f"{implementation.__name__} has no kind; expected a class attribute kind = '…', "
                f"or for a Settings tag='…', tag_field='kind'"
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
                f"{self.what} kind {kind!r} is unknown{unknown_among(str(kind), sorted(self._classes))} "
                f"(for a kind of your own, import the module that defines it first; in commands: --import MODULE)"
            )
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    @property
    def own(self) -> list[str]:
        """The kinds that users registered."""
        return [kind for kind, found in self._classes.items() if not found.__module__.startswith("twotower.")]

    def make(self, settings: Mapping[str, Any]) -> Any:
        """Creates an instance from its settings: the `kind`, and arguments by name.

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
            raise ConfigError(f"{self.what} {kind!r} with {given}: {error}; expected arguments: {expected}") from error
        try:
            return implementation(**arguments)
        except TypeError as error:  # an implementation that passes **kwargs on
            raise ConfigError(f"{self.what} {kind!r} cannot be created: {error}") from error


def kind_of(implementation: type) -> str | None:
    """The kind that a class declares; None if it declares none."""
    if issubclass(implementation, msgspec.Struct):
        tag = implementation.__struct_config__.tag
        return tag if isinstance(tag, str) else None
    return getattr(implementation, "kind", None)


def _address(implementation: type) -> str:
    return f"{implementation.__module__}.{implementation.__qualname__}"
