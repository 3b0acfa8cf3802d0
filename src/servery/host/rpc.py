"""The gRPC server: grpc.aio on the worker's own event loop, within the same bounds as the HTTP one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import grpc.aio

# What one process, and one connection, will have under way; beyond it grpc refuses with RESOURCE_EXHAUSTED.
_MOST_CALLS = 16_384
_MOST_CALLS_A_CONNECTION = 1024
_CANCEL_S = 2.0


class Rpcs(Protocol):
    """The calls that a face answers."""

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]: ...
    def end_idle(self) -> None:
        """End the streams that wait for their caller's next message, and those that begin to."""
        ...

    def cut(self) -> None:
        """End what is under way with the answer that says so."""
        ...


class GrpcServer:
    """A Service: accepts on `address` until it drains, then finishes what is in flight within `drain_limit_s`."""

    name = "grpc"
    unready = ""

    def __init__(self, rpcs: Rpcs, address: str, largest_bytes: int, drain_limit_s: float) -> None:
        self._rpcs = rpcs
        self._address = address
        self._largest_bytes = largest_bytes
        self._drain_limit_s = drain_limit_s
        self._server: Any = None
        self._hurrying = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises RuntimeError when the address can't be bound."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._largest_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", _MOST_CALLS_A_CONNECTION),
                ("grpc.so_reuseport", 1),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._server.add_generic_rpc_handlers(tuple(self._rpcs.handlers()))
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def leave(self) -> None:
        """Tell all clients to go elsewhere with their next call."""
        if self._server is not None and self._stopping is None:
            stop = self._server.stop(self._drain_limit_s + _CANCEL_S)
            self._stopping = asyncio.get_running_loop().create_task(stop)
            self._rpcs.end_idle()

    async def drain(self) -> None:
        await self.leave()
        server, stopping = self._server, self._stopping
        self._server = None
        if server is None or stopping is None:
            return
        hurrying = asyncio.get_running_loop().create_task(self._hurrying.wait())
        await asyncio.wait((stopping, hurrying), timeout=self._drain_limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not stopping.done():
            self._rpcs.cut()
            await server.stop(_CANCEL_S)
        await stopping

    def abort(self) -> None:
        """Stop waiting for what is in flight."""
        self._hurrying.set()
        self._rpcs.cut()
