"""Keys of the admin API: who comes with one, which role it has, and until when it is taken."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from servery.identity.keys import Hashed
from servery.terms.admin import AdminKey, Role

_NEVER_NS = 2**63


class AdminOf(msgspec.Struct, frozen=True):
    """Whoever has a key of the admin API. `until_ns`: of wall time; it is refused from then on."""

    id: str
    role: Role
    until_ns: int = _NEVER_NS


class AdminKeys:
    """Finds whose key one is. Hashes are compared in constant time; of a key nothing is kept."""

    def __init__(self, keys: Iterable[AdminKey] = ()) -> None:
        self._keys = Hashed((key.sha256, AdminOf(key.id, key.role, _until_ns(key.expires))) for key in keys)

    def find(self, key: bytes) -> AdminOf | None:
        """Whose key this is, also after it has expired."""
        return self._keys.find(key)


def _until_ns(expires: str) -> int:
    """The beginning of that day in UTC."""
    return int(datetime.fromisoformat(expires).replace(tzinfo=UTC).timestamp()) * 10**9 if expires else _NEVER_NS
