"""Who comes to the admin API: this machine's user over a socket of theirs, or whoever has a key over TCP."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from servery.gateway.tallies import Tally
from servery.host.clock import Clock
from servery.host.users import user_of
from servery.identity.admins import AdminKeys
from servery.quota.buckets import SlidingMinute
from servery.terms.admin import Admin, Role
from servery.terms.reasons import Reason, Refusal

# Attempts without a valid key that one address may make in a minute; further ones are told to wait.
MOST_FAILED = 20
_MOST_PEERS = 1024


class Known(msgspec.Struct, frozen=True):
    """Who asks, as the audit calls them, and what they may do."""

    who: str
    role: Role


class Gate(Protocol):
    """Says who an ASGI request comes from. Refusal."""

    def __call__(self, scope: Any) -> Known: ...


def by_socket(scope: Any) -> Known:
    """Over a socket that only this user may open: the user that the kernel knows the peer as."""
    return Known(user_of(scope["client"][1]), "operator")


class Failures:
    """Attempts that failed, by address. Of the addresses the last thousand or so are remembered.

    A valid key is always taken: 256 random bits can't be guessed at any rate, and whoever shares an address with somebody who
    tries could be kept out otherwise. What is bounded is the work and the noise.
    """

    def __init__(self) -> None:
        self._minutes: OrderedDict[str, SlidingMinute] = OrderedDict()

    def take(self, peer: str, now_ns: int) -> float:
        """One more; the seconds that this address has to wait before another one is looked at, 0.0 where it needn't."""
        name = _network(peer)
        minute = self._minutes.pop(name, None) or SlidingMinute(MOST_FAILED)
        self._minutes[name] = minute
        if len(self._minutes) > _MOST_PEERS:
            self._minutes.popitem(last=False)
        return minute.take(now_ns)


def _network(peer: str) -> str:
    """What one machine can have as its address: of IPv6 the first 64 bits."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    return peer if address.version == 4 else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


class ByKey:
    """By a key in `Authorization: Bearer KEY`. `admin` says which ones are declared now: one that goes is refused at once.

    What a browser may have been tricked into sending is refused, whatever it holds.
    """

    def __init__(self, admin: Callable[[], Admin | None], clock: Clock, tally: Tally) -> None:
        self._admin = admin
        self._clock = clock
        self._tally = tally
        self._failures = Failures()
        self._of: Admin | None = None
        self._keys = AdminKeys()

    def __call__(self, scope: Any) -> Known:
        headers = dict[bytes, bytes](scope["headers"])
        declared = self._admin()
        if declared is not self._of:
            self._of, self._keys = declared, AdminKeys(declared.keys if declared is not None else ())
        if wrong := misled(headers, declared):
            self._tally.count("of another host or page")
            raise Refusal(Reason.NOT_PERMITTED, wrong)
        kind, message = self._wrong(headers.get(b"authorization", b""))
        if isinstance(kind, Known):
            return kind
        self._tally.count(kind)
        wait_s = self._failures.take(scope["client"][0] if scope["client"] else "", self._clock.steady_ns())
        if wait_s:
            message = (
                f"{MOST_FAILED} attempts from your address in a minute had no valid key: wait {math.ceil(wait_s)} s"
            )
            raise Refusal(Reason.RATE_LIMITED, message, wait_s)
        raise Refusal(Reason.UNAUTHENTICATED, message)

    def _wrong(self, authorization: bytes) -> tuple[Known | str, str]:
        """Who it is; or what was counted, and what is said."""
        if authorization[:7].lower() != b"bearer ":
            return "without a key", "no key was sent: send `Authorization: Bearer KEY` with a key of the admin API"
        found = self._keys.find(authorization[7:].strip())
        if found is None:
            message = "no key of the admin API is this one: make one with `servery key new --admin viewer`, and apply its lines"
            return "with a wrong key", message
        if self._clock.wall_ns() >= found.until_ns:
            return (
                "with an expired key",
                f"the key {found.id!r} has expired: make another with `servery key new --admin {found.role}`",
            )
        return Known(f"key:{found.id}", found.role), ""


def misled(headers: dict[bytes, bytes], admin: Admin | None) -> str:
    """Why a request may be one that a web page makes a browser send ("" where nothing says so).

    A page elsewhere can point a name of its own at this address (DNS rebinding): only names that are declared are answered. It
    also gives itself away by `Origin` and `Sec-Fetch-Site`, which browsers set and pages can't.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = _name(host)
    ours = {"localhost", *(one.lower() for one in (admin.host, *admin.names))} if admin is not None else {"localhost"}
    if name not in ours and not _is_address(name):
        return f"this admin API isn't asked as {name[:128]!r}; if that is its name, add it to `admin.names` of the manifest"
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    fetched = headers.get(b"sec-fetch-site", b"none")
    if (origin and _place(origin) != host) or fetched not in (b"none", b"same-origin"):
        return "the admin API doesn't answer other sites' pages"
    return ""


def _place(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
