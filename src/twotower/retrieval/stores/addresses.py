"""Addresses of stores: which kind one is of, and that it carries no password."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit

from twotower.errors import ConfigError

SECRETS = {"password", "sslpassword", "token", "passfile", "sslkey"}
"""Parameters of an address that are secret, or say where a secret lies."""


def check_address(address: str, schemes: tuple[str, ...], variables: str) -> None:
    """Refuses an address of another scheme, or with a secret in it; the error does not repeat the secret.

    Args:
        address: The address.
        schemes: What it may begin with.
        variables: Where the secret belongs instead.

    Raises:
        ConfigError: It is such an address.

    Example:
        >>> check_address("postgresql://ann:secret@db/shop", ("postgresql",), "PGPASSWORD")
        Traceback (most recent call last):
        twotower.errors.ConfigError: the address of the store at db has a password in it, which would be kept in the \
bundle; take it out and set PGPASSWORD
    """
    parts = _split(address)
    if parts.password is not None or SECRETS & {name.lower() for name, _ in parse_qsl(parts.query)}:
        raise ConfigError(
            f"the address of the store at {parts.hostname or 'a socket'} has a password in it, which would be kept in "
            f"the bundle; take it out and set {variables}",
            field="address",
        )
    if parts.scheme not in schemes:
        expected = " or ".join(f"{scheme}://…" for scheme in schemes)
        raise ConfigError(f"store address {address!r}; expected {expected}", field="address")


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port, parts.password
    except ValueError:  # whose message may quote the address
        raise ConfigError("the address of the store cannot be read as a URL", field="address") from None
    return parts
