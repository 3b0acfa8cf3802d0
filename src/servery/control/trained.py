"""The trained files that routes name, pinned by what they hold now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from servery.control.paces import check_learned
from servery.control.places import Places, at
from servery.terms.change import Pinned, Problem
from servery.terms.manifest import Manifest


class Files(msgspec.Struct, frozen=True):
    """`routers` by Route, `verifiers` by the path as it is written."""

    routers: dict[str, Pinned] = {}
    verifiers: dict[str, Pinned] = {}


def pin_trained(manifest: Manifest, folder: Path, places: Places, problems: list[Problem]) -> Files:
    """The files, whose paths are relative to `folder`. One that can't be read is an error: nobody knows what it would say."""
    routers: dict[str, Pinned] = {}
    verifiers: dict[str, Pinned] = {}
    for name, route in manifest.routes.items():
        here = at("routes", name)
        if route.policy.router:
            from servery.routing.router_file import decode_router  # noqa: PLC0415 numpy, where it is needed

            where = at(here, "policy", "router")
            found: list[float] = []  # the threshold that it was trained for

            def decode(content: bytes, found: list[float] = found) -> None:
                found.append(decode_router(content).threshold)

            pinned = _pinned(folder / route.policy.router, decode, where, places, problems)
            if pinned is not None:
                routers[name] = msgspec.structs.replace(pinned, threshold=found[0])
                problems += check_learned(route, found[0], here, places)
        for index, tier in enumerate(route.tiers):
            if tier.accept is not None and tier.accept.verifier:
                from servery.routing.verifier_file import decode_verifier  # noqa: PLC0415 numpy, where it is needed

                where = at(here, "tiers", index, "accept", "verifier")
                pinned = _pinned(folder / tier.accept.verifier, decode_verifier, where, places, problems)
                if pinned is not None:
                    verifiers[tier.accept.verifier] = pinned
    return Files(routers, verifiers)


def _pinned(
    path: Path, decode: Callable[[bytes], object], where: str, places: Places, problems: list[Problem]
) -> Pinned | None:
    from servery.routing.learned_file import BadFile  # noqa: PLC0415 numpy, where it is needed

    path = path.absolute()
    try:
        content = path.read_bytes()
        decode(content)
    except OSError as error:
        problems.append(places.problem(where, f"{path} can't be read: {error.strerror}"))
    except BadFile as error:
        problems.append(places.problem(where, f"{path} {error}"))
    else:
        return Pinned(str(path), hashlib.sha256(content).hexdigest())
    return None
