"""The fake vendor as an ASGI app in the shape of OpenAI's API. It is for tests and trials: it trusts whoever asks."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from servery.vendor.behaviour import Behaviour, behaviour_of
from servery.vendor.writing import Line, made_up, tokens_of

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

_CREATED = 1_700_000_000
_EVENTS = [(b"content-type", b"text/event-stream")]
_JSON = [(b"content-type", b"application/json")]


class Cut(Exception):
    """The call ends here: its connection is gone."""


class Vendor:
    """`lines` is its invoice. The same `seed` and the same calls give the same answers."""

    def __init__(self, seed: int = 0, key: str = "") -> None:
        self.lines: list[Line] = []
        self._draw = random.Random(seed)  # noqa: S311 nothing is kept secret by it
        self._key = key
        self._number = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if path == "/vendor/invoice":
            await _reply(send, 200, {"lines": [msgspec.to_builtins(line) for line in self.lines]})
        elif self._key and headers.get(b"authorization") != f"Bearer {self._key}".encode():
            sent = headers.get(b"authorization", b"").decode("latin-1")
            await _reply(send, 401, _error(f"Incorrect API key provided: {sent}", "invalid_api_key"))
        elif path == "/v1/models" and method == "GET":
            await _reply(send, 200, {"object": "list", "data": [_model("fake")]})
        elif path.startswith("/v1/models/") and method == "GET":
            await _reply(send, 200, _model(path.removeprefix("/v1/models/")))
        elif path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings") and method == "POST":
            await self._answer(path, await _body(receive), receive, send)
        else:
            await _reply(send, 404, _error(f"there is nothing at {path}", "not_found"))

    async def _answer(self, path: str, body: bytes, receive: Receive, send: Send) -> None:
        try:
            asked = json.loads(body)
            ordered = behaviour_of(asked["model"])
        except (ValueError, KeyError, TypeError) as error:
            await _reply(send, 400, _error(f"this can't be: {error}", "invalid_request"))
            return
        self._number += 1
        prompt = json.dumps(
            asked.get("messages") or asked.get("prompt") or asked.get("input") or "", ensure_ascii=False
        )
        line = Line(self._number, asked["model"], bool(asked.get("stream")), len(tokens_of(prompt)))
        line.cached_tokens = min(ordered.cached, line.prompt_tokens)
        faulty = bool(ordered.fault) and self._draw.random() < ordered.chance
        call = _Call(path, asked, ordered, ordered.kind if faulty else "", line, send)
        latency_ms = ordered.latency_ms
        if ordered.spread == "exponential":
            latency_ms = self._draw.expovariate(1) * latency_ms
        gone = asyncio.ensure_future(_left(receive))
        answering = asyncio.ensure_future(self._perform(call, latency_ms / 1e3))
        try:
            await asyncio.wait((gone, answering), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        except Cut:
            pass
        finally:
            gone.cancel()
            answering.cancel()

    async def _perform(self, call: _Call, latency_s: float) -> None:
        """One call, which may be cancelled when the caller leaves: it is billed for what it had by then."""
        kind, ordered = call.fault, call.ordered
        if kind.isdigit():
            headers = [(b"retry-after", str(ordered.retry_after).encode())] if ordered.retry_after else []
            await _reply(call.send, int(kind), _error(f"ordered: {kind}", "ordered"), headers)
            return
        if kind == "hangup":
            call.hang_up()
        self.lines.append(call.line)
        if latency_s:
            await asyncio.sleep(latency_s)
        text = ordered.says or made_up(ordered.tokens, self._draw)
        if call.path == "/v1/embeddings":
            await call.embed()
        elif call.line.stream:
            await call.stream(text)
        else:
            await call.whole(text)


class _Call:
    """One call that is answered."""

    def __init__(
        self, path: str, asked: dict[str, Any], ordered: Behaviour, fault: str, line: Line, send: Send
    ) -> None:
        self.path = path
        self.asked = asked
        self.ordered = ordered
        self.fault = fault
        self.line = line
        self.send = send
        self._chat = path == "/v1/chat/completions"
        self._sent = 0

    def hang_up(self) -> None:
        """End the connection as a crash would; uvicorn's cycle, whose method `send` is, has it."""
        cycle: Any = getattr(self.send, "__self__", None)
        cycle.transport.close()
        cycle.disconnected = True  # so that it sends nothing more
        raise Cut

    async def embed(self) -> None:
        given = self.asked.get("input")
        count = len(cast(list[Any], given)) if isinstance(given, list) else 1
        vectors = [{"object": "embedding", "index": at, "embedding": [at + 0.5, 0.25, -1.0]} for at in range(count)]
        await self._finish({"object": "list", "model": self.line.model, "data": vectors})

    async def whole(self, text: str) -> None:
        tokens = tokens_of(text)
        self.line.reasoning_tokens = self.ordered.reasoning
        self.line.completion_tokens = len(tokens) + self.ordered.reasoning
        finish = None if self.fault == "unfinished" else "tool_calls" if self.ordered.calls else "stop"
        said = {"message": self._message(text)} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": self._logprobs(tokens), "finish_reason": finish}
        await self._finish({**self._head(""), "choices": [choice]})

    async def _finish(self, answer: dict[str, Any]) -> None:
        """Send a whole answer, as far as the fault lets it."""
        if self.ordered.usage != "none":
            answer["usage"] = self.line.usage() if self.ordered.usage == "right" else {"prompt_tokens": -5}
        body = json.dumps(answer).encode()
        if self.fault == "html":
            body = b"<html><body>Bad gateway</body></html>"
        size = len(body) + (100 if self.fault == "length" else 0)
        head = [(b"content-length", str(size).encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_JSON, *head]})
        if self.fault == "cut":
            body = body[: self.ordered.at]
        await self.send({"type": "http.response.body", "body": body, "more_body": self.fault in ("cut", "length")})
        if self.fault in ("cut", "length"):
            self.hang_up()
        self.line.complete = True
        self.line.reported = self.ordered.usage == "right" and not self.fault

    async def stream(self, text: str) -> None:
        await self.send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        if self._chat:
            await self._chunk({"delta": {"role": "assistant", "content": ""}})
        self.line.completion_tokens = self.line.reasoning_tokens = self.ordered.reasoning
        for count, token in enumerate(tokens_of(text)):
            await self._fault_at(count)
            sure = {"logprobs": self._logprobs([token])}
            await self._chunk({"delta": {"content": token}, **sure} if self._chat else {"text": token, **sure})
            self.line.completion_tokens += 1
            if self.ordered.gap_ms:
                await asyncio.sleep(self.ordered.gap_ms / 1e3)
        await self._fault_at(1 << 30)
        if self.ordered.calls:
            await self._chunk({"delta": {"tool_calls": [{"index": 0, **self._tool_call()}]}})
        if self.fault != "unfinished":
            nothing: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
            await self._chunk({**nothing, "finish_reason": "tool_calls" if self.ordered.calls else "stop"})
        options: dict[str, Any] = self.asked.get("stream_options") or {}
        if options.get("include_usage") and self.ordered.usage != "none":
            usage = self.line.usage() if self.ordered.usage == "right" else {"prompt_tokens": -5}
            await self._event({**self._head(".chunk"), "choices": [], "usage": usage})
            self.line.reported = self.ordered.usage == "right"
        self.line.complete = True
        end = b"data: [DONE]\n\n" if self.ordered.done else b""
        await self.send({"type": "http.response.body", "body": end, "more_body": False})

    async def _fault_at(self, count: int) -> None:
        """The fault that was ordered for this place in the stream, if any."""
        if self.fault not in ("stall", "bad", "error", "endless") or count < min(self.ordered.at, 1 << 29):
            return
        if self.fault == "stall":
            await asyncio.Event().wait()
        while self.fault == "endless":
            await self._raw(b": nothing\n\n" * 64)
        broken = b"{no json" if self.fault == "bad" else json.dumps(_error("ordered", "ordered")).encode()
        await self._raw(b"data: " + broken + b"\n\n")
        self.fault = ""

    async def _chunk(self, choice: dict[str, Any]) -> None:
        whole = {"index": 0, "logprobs": None, "finish_reason": None, **choice}
        await self._event({**self._head(".chunk"), "choices": [whole], "usage": None})

    async def _event(self, chunk: dict[str, Any]) -> None:
        await self._raw(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def _raw(self, part: bytes) -> None:
        most = self.ordered.at - self._sent
        if self.fault == "cut" and len(part) > most:
            await self.send({"type": "http.response.body", "body": part[:most], "more_body": True})
            self.hang_up()
        self._sent += len(part)
        await self.send({"type": "http.response.body", "body": part, "more_body": True})

    def _head(self, part: str) -> dict[str, Any]:
        kind = "chat.completion" + part if self._chat else "text_completion"
        name = self.line.model.partition("?")[0]
        return {"id": f"fake-{self.line.number}", "object": kind, "created": _CREATED, "model": f"{name}-2026"}

    def _logprobs(self, tokens: list[str]) -> dict[str, Any] | None:
        """How sure it is of its tokens, where that is asked for."""
        asked = self.asked.get("logprobs")
        if asked is None or asked is False:
            return None
        sure, other = math.log(self.ordered.sure), math.log(max(1 - self.ordered.sure, 1e-9))
        if not self._chat:
            tops = [{token: sure, f"{token}'": other} for token in tokens]
            return {"tokens": tokens, "token_logprobs": [sure] * len(tokens), "top_logprobs": tops}
        best = [{"token": "this", "logprob": sure}, {"token": "that", "logprob": other}]
        top = best[: self.asked.get("top_logprobs") or 0]
        return {"content": [{"token": token, "logprob": sure, "bytes": None, "top_logprobs": top} for token in tokens]}

    def _message(self, text: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.ordered.calls:
            message |= {"content": None, "tool_calls": [self._tool_call()]}
        return message

    def _tool_call(self) -> dict[str, Any]:
        arguments = json.dumps({"city": "Abu Dhabi"})
        function = {"name": self.ordered.calls, "arguments": arguments}
        return {"id": f"call-{self.line.number}", "type": "function", "function": function}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "fake-vendor"}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


async def _reply(send: Send, status: int, content: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps(content).encode()
    head = [*_JSON, (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
