"""Checks addresses of stores: the scheme, and that they contain no password."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit

from twotower.errors import ConfigError

SECRETS = {"password", "sslpassword", "token", "passfile", "sslkey"}
"""Parameters of an address that are secret, or name the location of a secret."""


def check_address(address: str, schemes: tuple[str, ...], variables: str) -> None:
    """Refuses an address that has another scheme or contains a secret; the error does not repeat the secret.

    Args:
        address: The address.
        schemes: The accepted schemes.
        variables: The environment variables that should hold the secret instead.

    Raises:
        ConfigError: The address has another scheme or contains a secret.

    Example:
        >>> check_address("postgresql://ann:secret@db/shop", ("postgresql",), "PGPASSWORD")
        Traceback (most recent call last):
        twotower.errors.ConfigError: the address of the store at db contains a password, which would be stored in the \
bundle; remove it and set PGPASSWORD
    """
    parts = _split(address)
    if parts.password is not None or SECRETS & {name.lower() for name, _ in parse_qsl(parts.query)}:
        raise ConfigError(
            f"the address of the store at {parts.hostname or 'a socket'} contains a password, which would be stored in "
            f"the bundle; remove it and set {variables}",
            field="address",
        )
    if parts.scheme not in schemes:
        expected = " or ".join(f"{scheme}://…" for scheme in schemes)
        raise ConfigError(f"store address {address!r}; expected {expected}", field="address")


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port, parts.password
    except ValueError:  # its message may quote the address
        raise ConfigError("the address of the store cannot be read as a URL", field="address") from None
    return parts
