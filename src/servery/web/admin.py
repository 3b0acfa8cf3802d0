"""The admin API's face: who asks, within which bounds, and one form for every error. What is done is in operations.py."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Container
from typing import Any, NoReturn

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from servery.host.asgi import Headers, Way
from servery.terms.reasons import Reason, Refusal
from servery.web.bodies import Failure
from servery.web.gate import Gate, Known
from servery.web.openapi import PATH, PREFIX, describe
from servery.web.operations import OPERATIONS, Acts, Asked, Operation, Unfit
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

_BODY_BYTES = 1 << 20
# What an answer holds is for whoever asked: no cache keeps it, and no browser guesses what it may be.
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class AdminFace:
    """An ASGI app. `gate` says who asks, or refuses; `here`: it is this machine's own socket."""

    def __init__(self, acts: Acts, gate: Gate, here: bool) -> None:
        self._acts = acts
        self._gate = gate
        self._here = here
        routes = [Route(PREFIX + one.path, self._answering(one), methods=[one.method]) for one in OPERATIONS]
        routes.append(Route(PREFIX + PATH, _described, methods=["GET"]))
        self._app = Starlette(routes=routes, exception_handlers={404: _missing, 405: _not_so, 500: _failing})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            scope["user"] = self._gate(scope)
        except Refusal as refusal:
            await _refused(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def quick_urls(self) -> Container[bytes]:
        return ()

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> NoReturn:
        raise AssertionError(f"there are no quick urls, but {url!r} with {len(headers)}, {len(body)}, {way}")

    def error(self, message: str) -> bytes:
        return msgspec.json.encode(Failure(message, Reason.INVALID_REQUEST.word))

    def _answering(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                known: Known = request.user
                _may(known, operation)
                body = await _body(request, operation)
                asked = Asked(known.who, self._here, dict(request.path_params), dict(request.query_params), body)
                return _answered(msgspec.json.encode(await operation.act(self._acts, asked)))
            except Refusal as refusal:
                return _refused(refusal)
            except Unfit as unfit:
                return _failed(Failure(unfit.message, Reason.INVALID_MANIFEST.word, unfit.problems), 422)

        return answer


def _may(known: Known, operation: Operation) -> None:
    if operation.role == "operator" and known.role != "operator":
        message = f"{known.who} may only look: {operation.name} takes a key with `role: operator`"
        raise Refusal(Reason.NOT_PERMITTED, message)


async def _described(_: Request) -> Response:
    return _answered(describe(OPERATIONS))


def _answered(content: bytes, status: int = 200) -> Response:
    return Response(content, status, _HEADERS, "application/json")


async def _body(request: Request, operation: Operation) -> Any:
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > _BODY_BYTES:
                raise Refusal(Reason.TOO_LARGE, f"the body is larger than {_BODY_BYTES >> 20} MiB")
    except ClientDisconnect:
        raise Refusal(Reason.INVALID_REQUEST, "the body ended early") from None
    if operation.body is None:
        return None
    try:
        return msgspec.json.decode(content or b"{}", type=operation.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(Reason.INVALID_REQUEST, f"the body is not what {operation.name} takes: {error}") from None


def _refused(refusal: Refusal) -> Response:
    status = HTTP_STATUS[refusal.reason]
    response = _failed(Failure(refusal.message, refusal.reason.word), status)
    if status in RETRY_AFTER_S:
        response.headers["retry-after"] = str(math.ceil(refusal.retry_after_s or RETRY_AFTER_S[status]))
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _failed(failure: Failure, status: int) -> Response:
    return _answered(msgspec.json.encode(failure), status)


async def _missing(request: Request, _: Exception) -> Response:
    message = f"there is nothing at {request.url.path[:128]}; {PREFIX}/openapi.json says what there is"
    return _failed(Failure(message, Reason.NOT_FOUND.word), 404)


async def _not_so(request: Request, _: Exception) -> Response:
    message = f"{request.method[:16]} is not what {request.url.path[:128]} takes"
    return _failed(Failure(message, Reason.METHOD_NOT_ALLOWED.word), 405)


async def _failing(_: Request, __: Exception) -> Response:
    return _failed(Failure("an error of ours; the log has it", Reason.BUG.word), 500)
