"""The admin API: everything that changes what is served, for operators and for the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from servery.control.loop import Controller
from servery.host.asgi import Headers, Way
from servery.terms.change import Change
from servery.terms.reasons import Reason, Refusal
from servery.wire.status import HTTP_STATUS

PREFIX = "/servery/admin/v1"


class Apply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST apply` takes: an absolute path on this machine; without one the manifest that is served is read again."""

    file: str | None = None


class WorkerNow(msgspec.Struct, frozen=True):
    """A worker that is connected, and the epoch that it answers by."""

    name: str
    epoch: int


class VersionNow(msgspec.Struct, frozen=True):
    """A Version that is published."""

    model: str
    number: str
    version: str
    labels: tuple[str, ...]
    standing: str
    problem: str


class Status(msgspec.Struct, frozen=True):
    """What is published, and who answers by it."""

    epoch: int
    digest: str
    workers: tuple[WorkerNow, ...]
    versions: tuple[VersionNow, ...]


class AdminFace:
    """The ASGI app of one Controller. It is reached through a socket that only this user may open."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        routes = [
            Route(f"{PREFIX}/status", _answering(self._status), methods=["GET"]),
            Route(f"{PREFIX}/apply", _answering(self._apply), methods=["POST"]),
            Route(f"{PREFIX}/models/{{model:path}}/load", _answering(self._load), methods=["POST"]),
            Route(f"{PREFIX}/models/{{model:path}}/unload", _answering(self._unload), methods=["POST"]),
        ]
        self._app = Starlette(routes=routes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def quick_urls(self) -> Container[bytes]:
        return ()

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> NoReturn:
        raise AssertionError(f"there are no quick urls, but {url!r} with {len(headers)}, {len(body)}, {way}")

    def error(self, message: str) -> bytes:
        return msgspec.json.encode({"error": message})

    async def _status(self, _: Request) -> tuple[int, msgspec.Struct]:
        snapshot = self._controller.snapshot
        workers = tuple(WorkerNow(peer.name, peer.epoch) for peer in self._controller.peers)
        versions = tuple(
            VersionNow(
                version.model,
                version.number,
                version.name,
                tuple(label for label, number in served.labels.items() if number == version.number),
                served.standing.value,
                version.problem,
            )
            for served in snapshot.models.values()
            for version in served.versions
        )
        return 200, Status(snapshot.epoch, snapshot.manifest_digest, workers, versions)

    async def _apply(self, request: Request) -> tuple[int, msgspec.Struct]:
        body = await request.body()
        try:
            asked = msgspec.json.decode(body or b"{}", type=Apply)
        except msgspec.DecodeError as error:
            raise Refusal(Reason.INVALID_REQUEST, f"the body is not what apply takes: {error}") from None
        if asked.file is not None and not Path(asked.file).is_absolute():
            raise Refusal(Reason.INVALID_REQUEST, f"`file` must be an absolute path, not {asked.file!r}")
        change = await self._controller.apply(Path(asked.file) if asked.file else None, _who(request))
        return 200 if change.epoch else 422, change

    async def _load(self, request: Request) -> tuple[int, msgspec.Struct]:
        return 200, await self._controller.load(request.path_params["model"], _who(request))

    async def _unload(self, request: Request) -> tuple[int, Change]:
        return 200, await self._controller.unload(request.path_params["model"], _who(request))


def _who(request: Request) -> str:
    """Whom the log names: the socket is this user's alone, so what they call themselves is good enough."""
    return request.headers.get("servery-by", "somebody")[:64]


def _answering(
    act: Callable[[Request], Awaitable[tuple[int, msgspec.Struct]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            status, value = await act(request)
            body = msgspec.json.encode(value)
        except Refusal as refusal:
            status = HTTP_STATUS[refusal.reason]
            body = msgspec.json.encode({"error": refusal.message, "reason": refusal.reason.word})
        return Response(body, status, media_type="application/json")

    return answer
