"""The standard health service of gRPC, which agrees with ServerReady."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Protocol

from google.protobuf.message import DecodeError

from servery.gateway.rpc_ask import Fields
from servery.terms.reasons import Reason, Refusal
from servery.wire.proto import health_pb2 as pb

_LOOK_S = 0.25


class Context(Protocol):
    async def write(self, message: bytes) -> None: ...


class Health:
    """Check and Watch, for the whole server ("") and for each of its `services`."""

    def __init__(self, unready: Callable[[], list[str]], services: Collection[str]) -> None:
        self._unready = unready
        self._services = ("", *services)
        self._ending = asyncio.Event()

    async def check(self, message: bytes, _fields: Fields, _context: object) -> bytes:
        service = _service(message)
        if service not in self._services:
            known = ", ".join(f"'{name}'" for name in self._services)
            raise Refusal(Reason.NOT_FOUND, f"no service is called '{service[:128]}'; there is {known}")
        return self._status(service)

    async def watch(self, message: bytes, _fields: Fields, context: Context) -> None:
        """The status at once, and again whenever it changes, until `end`."""
        service = _service(message)
        told = b""
        while True:
            status = self._status(service)
            if status != told:
                await context.write(status)
                told = status
            if self._ending.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _LOOK_S)

    def end(self) -> None:
        """Tell those who watch how it is now, and end their streams."""
        self._ending.set()

    def _status(self, service: str) -> bytes:
        kinds = pb.HealthCheckResponse
        status = kinds.NOT_SERVING if self._unready() else kinds.SERVING
        return kinds(status=status if service in self._services else kinds.SERVICE_UNKNOWN).SerializeToString()


def _service(message: bytes) -> str:
    try:
        return pb.HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise Refusal(Reason.INVALID_REQUEST, "this is not a HealthCheckRequest") from None
