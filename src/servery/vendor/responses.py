"""Calls in the shape of OpenAI's responses and moderations."""

from __future__ import annotations

from typing import Any

from servery.vendor.call import CREATED, Call
from servery.vendor.openai import OpenAiCall

_HARMS = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
          "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic")  # fmt: skip


class ResponseCall(Call):
    """A response, or a moderation, which costs nothing."""

    @staticmethod
    def error(message: str, code: str) -> dict[str, Any]:
        """As of Call."""
        return OpenAiCall.error(message, code)

    def usage(self) -> dict[str, Any]:
        """As of Call."""
        line = self.line
        return {
            "input_tokens": line.prompt_tokens,
            "input_tokens_details": {"cached_tokens": line.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": line.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": line.reasoning_tokens},
            "total_tokens": line.prompt_tokens + line.completion_tokens,
        }

    def stated(self) -> dict[str, Any]:
        """As of Call."""
        return self.usage() if self.ordered.usage == "right" else {"input_tokens": -5}

    def answer(self, text: str) -> dict[str, Any]:
        """As of Call."""
        if self.path == "/v1/moderations":
            self.line.prompt_tokens = self.line.completion_tokens = 0
            verdict: dict[str, Any] = {
                "flagged": False,
                "categories": dict.fromkeys(_HARMS, False),
                "category_scores": dict.fromkeys(_HARMS, 0.01),
                "category_applied_input_types": {harm: ["text"] for harm in _HARMS},
            }
            return {"id": f"modr-{self.line.number}", "model": self.name, "results": [verdict]}
        said: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        message: dict[str, Any] = {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [said],
        }
        return self._response("incomplete" if self.fault == "unfinished" else "completed", [message])

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"resp-{self.line.number}",
            "object": "response",
            "created_at": CREATED,
            "model": self.name,
            "status": status,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
        }

    async def begin(self) -> None:
        """As of Call."""
        await self.named({"type": "response.created", "response": self._response("in_progress", [])})

    async def token(self, token: str) -> None:
        """As of Call."""
        place = {"item_id": "msg", "output_index": 0, "content_index": 0}
        await self.named({"type": "response.output_text.delta", **place, "delta": token})

    async def finish(self) -> None:
        """As of Call."""
        if self.fault == "unfinished":
            return
        response = self._response("completed", [])
        if self.ordered.usage != "none":
            response["usage"] = self.stated()
            self.line.reported = self.ordered.usage == "right"
        await self.named({"type": "response.completed", "response": response})
