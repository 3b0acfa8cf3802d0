"""Calls in the shape of Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

from servery.vendor.call import Call

# By what OpenAI's API would call them.
_KINDS = {"ordered": "api_error", "invalid_api_key": "authentication_error", "not_found": "not_found_error"}


class AnthropicCall(Call):
    """A message. What it reads from a cache it counts beside what it reads anew."""

    @staticmethod
    def error(message: str, code: str) -> dict[str, Any]:
        """As of Call."""
        return {"type": "error", "error": {"type": _KINDS.get(code, "invalid_request_error"), "message": message}}

    def usage(self) -> dict[str, Any]:
        """As of Call."""
        line = self.line
        return {
            "input_tokens": line.prompt_tokens - line.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": line.cached_tokens,
            "output_tokens": line.completion_tokens,
        }

    def answer(self, text: str) -> dict[str, Any]:
        """As of Call."""
        content = [self._tool_use(self.arguments)] if self.ordered.calls else [{"type": "text", "text": text}]
        return self._message(content, None if self.fault == "unfinished" else self._stop())

    def _message(self, content: list[dict[str, Any]], stop: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{self.line.number}",
            "type": "message",
            "role": "assistant",
            "model": self.name,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
        }

    def _stop(self) -> str:
        return "tool_use" if self.ordered.calls else "end_turn"

    def _tool_use(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"toolu_{self.line.number}", "name": self.ordered.calls, "input": given}

    async def begin(self) -> None:
        """As of Call."""
        message = self._message([], None)
        if self.ordered.usage != "none":
            message["usage"] = {**self.stated(), "output_tokens": 1 if self.ordered.usage == "right" else -5}
        await self.named({"type": "message_start", "message": message})
        await self.named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        await self.named({"type": "ping"})

    async def token(self, token: str) -> None:
        """As of Call."""
        delta = {"type": "text_delta", "text": token}
        await self.named({"type": "content_block_delta", "index": 0, "delta": delta})

    async def finish(self) -> None:
        """As of Call."""
        await self.named({"type": "content_block_stop", "index": 0})
        if self.ordered.calls:
            await self.named({"type": "content_block_start", "index": 1, "content_block": self._tool_use({})})
            text = json.dumps(self.arguments)
            for part in (text[:5], text[5:]):
                delta = {"type": "input_json_delta", "partial_json": part}
                await self.named({"type": "content_block_delta", "index": 1, "delta": delta})
            await self.named({"type": "content_block_stop", "index": 1})
        if self.fault == "unfinished":
            return
        ended: dict[str, Any] = {"stop_reason": self._stop(), "stop_sequence": None}
        event: dict[str, Any] = {"type": "message_delta", "delta": ended}
        if self.ordered.usage != "none":
            event["usage"] = {"output_tokens": self.stated()["output_tokens"]}
            self.line.reported = self.ordered.usage == "right"
        await self.named(event)
        await self.named({"type": "message_stop"})
