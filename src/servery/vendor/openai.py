"""Calls in the shape of OpenAI's chat, completions and embeddings."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from servery.vendor.call import CREATED, Call
from servery.vendor.writing import tokens_of


class OpenAiCall(Call):
    """One of them, by its path."""

    @staticmethod
    def error(message: str, code: str) -> dict[str, Any]:
        """As of Call."""
        return {"error": {"message": message, "type": "error", "param": None, "code": code}}

    def usage(self) -> dict[str, Any]:
        """As of Call."""
        line = self.line
        return {
            "prompt_tokens": line.prompt_tokens,
            "completion_tokens": line.completion_tokens,
            "total_tokens": line.prompt_tokens + line.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": line.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": line.reasoning_tokens, "audio_tokens": 0},
        }

    def stated(self) -> dict[str, Any]:
        """As of Call."""
        return self.usage() if self.ordered.usage == "right" else {"prompt_tokens": -5}

    def answer(self, text: str) -> dict[str, Any]:
        """As of Call."""
        if self.path == "/v1/embeddings":
            return self._vectors()
        finish = None if self.fault == "unfinished" else "tool_calls" if self.ordered.calls else "stop"
        said = {"message": self._message(text)} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": self._logprobs(tokens_of(text)), "finish_reason": finish}
        return {**self._head(""), "choices": [choice]}

    def _vectors(self) -> dict[str, Any]:
        self.line.completion_tokens = 0
        given = self.asked.get("input")
        count = len(cast(list[Any], given)) if isinstance(given, list) else 1
        vectors = [{"object": "embedding", "index": at, "embedding": [at + 0.5, 0.25, -1.0]} for at in range(count)]
        return {"object": "list", "model": self.line.model, "data": vectors}

    async def begin(self) -> None:
        """As of Call."""
        if self._chat:
            await self._chunk({"delta": {"role": "assistant", "content": ""}})

    async def token(self, token: str) -> None:
        """As of Call."""
        sure = {"logprobs": self._logprobs([token])}
        await self._chunk({"delta": {"content": token}, **sure} if self._chat else {"text": token, **sure})

    async def finish(self) -> None:
        """As of Call."""
        if self.ordered.calls:
            await self._chunk({"delta": {"tool_calls": [{"index": 0, **self._tool_call()}]}})
        if self.fault != "unfinished":
            nothing: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
            await self._chunk({**nothing, "finish_reason": "tool_calls" if self.ordered.calls else "stop"})
        options: dict[str, Any] = self.asked.get("stream_options") or {}
        if options.get("include_usage") and self.ordered.usage != "none":
            await self._event({**self._head(".chunk"), "choices": [], "usage": self.stated()})
            self.line.reported = self.ordered.usage == "right"

    @property
    def done(self) -> bytes:
        """As of Call."""
        return b"data: [DONE]\n\n"

    @property
    def _chat(self) -> bool:
        return self.path == "/v1/chat/completions"

    async def _chunk(self, choice: dict[str, Any]) -> None:
        whole = {"index": 0, "logprobs": None, "finish_reason": None, **choice}
        await self._event({**self._head(".chunk"), "choices": [whole], "usage": None})

    async def _event(self, chunk: dict[str, Any]) -> None:
        await self.raw(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _head(self, part: str) -> dict[str, Any]:
        kind = "chat.completion" + part if self._chat else "text_completion"
        return {"id": f"fake-{self.line.number}", "object": kind, "created": CREATED, "model": self.name}

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
        function = {"name": self.ordered.calls, "arguments": json.dumps(self.arguments)}
        return {"id": f"call-{self.line.number}", "type": "function", "function": function}
