"""The fake vendor as an ASGI app in the shape of OpenAI's and of Anthropic's API. It is for tests and trials: it trusts
whoever asks.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from servery.vendor.answers import Answers, Unknown, last_said
from servery.vendor.anthropic import AnthropicCall
from servery.vendor.behaviour import Behaviour, behaviour_of
from servery.vendor.call import CREATED, Call, Cut, Send, reply
from servery.vendor.openai import OpenAiCall
from servery.vendor.responses import ResponseCall
from servery.vendor.writing import Line, made_up, tokens_of

Receive = Callable[[], Awaitable[dict[str, Any]]]

CALLS: dict[str, type[Call]] = {
    "/v1/chat/completions": OpenAiCall,
    "/v1/completions": OpenAiCall,
    "/v1/embeddings": OpenAiCall,
    "/v1/responses": ResponseCall,
    "/v1/moderations": ResponseCall,
    "/v1/messages": AnthropicCall,
}


# What is answered without words of the model's own.
_WORDLESS = ("/v1/embeddings", "/v1/moderations")


class Vendor:
    """`lines` is its invoice. The same `seed` and the same calls give the same answers. With `answers` it says those, and
    knows no other models and prompts.
    """

    def __init__(self, seed: int = 0, key: str = "", answers: Answers | None = None) -> None:
        self.lines: list[Line] = []
        self._answers = answers
        self._draw = random.Random(seed)  # noqa: S311 nothing is kept secret by it
        self._key = key
        self._number = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if path == "/vendor/invoice":
            await reply(send, 200, {"lines": [msgspec.to_builtins(line) for line in self.lines]})
        elif self._key and self._key not in (sent := _sent_key(headers)):
            await reply(send, 401, OpenAiCall.error(f"Incorrect API key provided: {sent}", "invalid_api_key"))
        elif path == "/v1/models" and method == "GET":
            await reply(send, 200, {"object": "list", "data": [_model(name) for name in self._names]})
        elif path.startswith("/v1/models/") and method == "GET":
            await reply(send, 200, _model(path.removeprefix("/v1/models/")))
        elif path == "/v1/messages/count_tokens" and method == "POST":
            await reply(send, 200, {"input_tokens": len(tokens_of(said_in(json.loads(await _body(receive)))))})
        elif path in CALLS and method == "POST":
            await self._answer(path, await _body(receive), receive, send)
        else:
            await reply(send, 404, OpenAiCall.error(f"there is nothing at {path}", "not_found"))

    async def _answer(self, path: str, body: bytes, receive: Receive, send: Send) -> None:
        try:
            asked = json.loads(body)
            ordered = self._recorded(path, asked, behaviour_of(asked["model"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            await reply(send, 400, CALLS[path].error(f"this can't be: {error}", "invalid_request"))
            return
        except Unknown as error:
            await reply(send, 404, CALLS[path].error(str(error), "not_found"))
            return
        self._number += 1
        line = Line(self._number, asked["model"], bool(asked.get("stream")), len(tokens_of(said_in(asked))))
        line.user = _user_of(asked)
        line.cached_tokens = min(ordered.cached, line.prompt_tokens)
        faulty = bool(ordered.fault) and self._draw.random() < ordered.chance
        call = CALLS[path](path, asked, ordered, ordered.kind if faulty else "", line, send)
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
            line.ended = True

    def _recorded(self, path: str, asked: dict[str, Any], ordered: Behaviour) -> Behaviour:
        """What is ordered, with the answer that was recorded. Unknown."""
        if self._answers is None or ordered.says or path in _WORDLESS:
            return ordered
        answer = self._answers.find(asked["model"].partition("?")[0], last_said(asked))
        sure = ordered.sure if answer.sure is None else answer.sure
        return msgspec.structs.replace(ordered, says=answer.text, sure=sure)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("fake",) if self._answers is None else self._answers.models

    async def _perform(self, call: Call, latency_s: float) -> None:
        """One call, which may be cancelled when the caller leaves: it is billed for what it had by then."""
        kind, ordered = call.fault, call.ordered
        if kind.isdigit():
            headers = [(b"retry-after", str(ordered.retry_after).encode())] if ordered.retry_after else []
            await reply(call.send, int(kind), call.error(f"ordered: {kind}", "ordered"), headers)
            return
        if kind == "hangup":
            call.hang_up()
        self.lines.append(call.line)
        text = ordered.says or made_up(ordered.tokens, self._draw)
        if latency_s:
            began = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(latency_s)
            except asyncio.CancelledError:
                if not call.line.stream:  # an answer in one is written meanwhile
                    share = (asyncio.get_running_loop().time() - began) / latency_s
                    call.line.completion_tokens = int(len(tokens_of(text)) * min(share, 1.0))
                raise
        if call.line.stream:
            await call.stream(text)
        else:
            await call.whole(text)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "fake-vendor"}


def said_in(asked: dict[str, Any]) -> str:
    """All that is billed of a prompt."""
    parts = [asked[name] for name in ("system", "messages", "prompt", "instructions", "input") if asked.get(name)]
    return json.dumps(parts[0] if len(parts) == 1 else parts, ensure_ascii=False)


def _user_of(asked: dict[str, Any]) -> str:
    """Whom the prompt names as its user; "" where it names nobody."""
    metadata = asked.get("metadata")
    user = asked.get("user") or (cast(dict[str, Any], metadata).get("user_id") if isinstance(metadata, dict) else "")
    return user if isinstance(user, str) else ""


def _sent_key(headers: dict[bytes, bytes]) -> str:
    return (headers.get(b"x-api-key") or headers.get(b"authorization", b"")).decode("latin-1")


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
