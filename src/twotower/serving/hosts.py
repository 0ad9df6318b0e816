"""`Hosts`: the accepted `Host` headers, which keep other pages from reaching the service by DNS rebinding."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from twotower.errors import ConfigError
from twotower.serving.refusals import Refusal

ANY = "*"
"""Allows every host."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of the machine itself. DNS cannot make a browser send one of these in place of another name."""

NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")

AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\s:/@\[\]]+))(?::[0-9]*)?")


@dataclass(frozen=True)
class Hosts:
    """Which `Host` headers are accepted.

    A page that rebinds its name to this machine still sends that name, so it is enough to check names. An address
    cannot be rebound, so a service that listens on all interfaces accepts every address.

    Attributes:
        names: Accepted names and addresses, in lower case; `*.example.com` stands for all subdomains.
        addresses: Whether every IP address is accepted.

    Example:
        >>> local = Hosts.listening_at("127.0.0.1")
        >>> local.allow("localhost:8000"), local.allow("[::1]"), local.allow("rebound.example:8000")
        (True, True, False)
        >>> everywhere = Hosts.listening_at("0.0.0.0", ["*.shop.example"])
        >>> everywhere.allow("10.1.2.3:8000"), everywhere.allow("api.shop.example"), everywhere.allow("shop.example")
        (True, True, False)
    """

    names: frozenset[str] = LOOPBACK
    addresses: bool = False

    @classmethod
    def listening_at(cls, host: str, allowed: Iterable[str] = ()) -> Hosts:
        """The accepted hosts of a service that listens at an address or a name.

        Args:
            host: Where it listens.
            allowed: More hosts: names, addresses, `*.NAME` for all subdomains, `*` for every host.

        Raises:
            ConfigError: One of `allowed` is none of these.
        """
        more = frozenset(_checked(one) for one in allowed)
        address = _address(host)
        if address is None:
            own = LOOPBACK if host.lower() == "localhost" else frozenset({host.lower().rstrip(".")})
            return cls(own | more, addresses=host.lower() != "localhost")
        if address.is_unspecified:
            return cls(LOOPBACK | more, addresses=True)
        own = frozenset({str(address)})
        return cls((own | LOOPBACK if address.is_loopback else own) | more)

    def allow(self, authority: str) -> bool:
        """Whether a `Host` header is accepted; its port does not matter."""
        if ANY in self.names:
            return True
        parts = AUTHORITY.fullmatch(authority.lower())
        if parts is None:
            return False
        name = parts["v6"] or parts["name"].rstrip(".")
        if (address := _address(name)) is not None:
            return self.addresses or str(address) in self.names
        parents = (name[place:] for place in range(len(name)) if name[place] == ".")
        return name in self.names or any(f"*{parent}" in self.names for parent in parents)

    def check(self, values: list[bytes]) -> None:
        """Refuses a request by its `Host` headers.

        Raises:
            Refusal: There is not exactly one, or its host is not accepted.
        """
        if len(values) != 1:
            raise Refusal(400, "invalid", f"there are {len(values)} Host headers; expected one", "host")
        if not _is_allowed(self, values[0]):
            shown = values[0][:100].decode("latin-1")
            raise Refusal(
                421,
                "wrong_host",
                f"this service does not accept the host {shown!r}; expected the address that it listens on, or a "
                f"name passed to `twotower serve --allowed-host`",
                "host",
            )


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuses requests that a browser sends for a page of another origin; other clients send no origin.

    Raises:
        Refusal: The request comes from another origin.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()
    if not own:
        raise Refusal(403, "cross_origin", "pages of another origin may not use this endpoint")


@lru_cache(maxsize=256)
def _is_allowed(hosts: Hosts, value: bytes) -> bool:
    return len(value) < 300 and hosts.allow(value.decode("latin-1"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _checked(host: str) -> str:
    if host == ANY:
        return ANY
    if (address := _address(host.strip("[]"))) is not None:
        return str(address)
    name = host.lower().rstrip(".")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--allowed-host {host!r}; expected a name or an address without scheme and port, such as "
            f"shop.example.com, *.example.com for all subdomains, or * for every host"
        )
    return name
