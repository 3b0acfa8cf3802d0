"""A language model that always answers the same, as fast as can be: nginx with a fixed reply; and what it is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAYS = "The quick brown fox jumps over the lazy dog, which does not mind."
USAGE = {"prompt_tokens": 23, "completion_tokens": 18, "total_tokens": 41}
ANSWER = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "fixed-2026",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": SAYS,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
PROMPT = {
    "model": "chat",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Tell me about foxes and dogs, in one sentence please."},
    ],
    "max_tokens": 64,
}


def nginx(folder: Path, port: int, *, stream: bool = False) -> list[str]:
    """The command of an nginx that answers everything with the completion, or with the same as a stream. Files go to `folder`."""
    kind, answer = ("text/event-stream", _streamed()) if stream else ("application/json", _compact(ANSWER))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; default_type {kind};\n"
        f"client_body_temp_path {folder}/body;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{answer}'; }} }} }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _streamed() -> str:
    return "".join(f"data: {_compact(chunk)}\n\n" for chunk in _chunks()) + "data: [DONE]\n\n"


def _chunks() -> Iterator[dict[str, Any]]:
    """A word each, between what opens and ends an answer; last what it took."""
    base = {"id": "c-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "fixed-2026"}
    words: list[dict[str, str]] = [{"content": f"{word} "} for word in SAYS.split()]
    for delta, why in (({"role": "assistant", "content": ""}, None), *((word, None) for word in words), ({}, "stop")):
        yield {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": why}]}
    yield {**base, "choices": [], "usage": USAGE}


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
