"""Anthropic's messages for an endpoint of OpenAI's chat: the prompt there, the answer and its stream back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from servery.terms.text import Form, Look, Piece, Prompt, Said, Tokens
from servery.wire import openai_answers
from servery.wire.answer import Whole, Wrong
from servery.wire.translating import EFFORTS, STOP_OF_FINISH, Json, Taken, listed, mapped, part_of, worded

_encode = msgspec.json.Encoder().encode
_ERROR = "Error: "  # before what a tool says that failed: chats have no field for it


def encode_prompt(prompt: Prompt, serves: msgspec.Raw, model: str, drop: bool) -> bytes:
    """The prompt as a chat, for an endpoint that calls the model `serves` (as JSON). Refusal names what can't be kept."""
    taken = Taken(prompt.fields)
    asked: Json = {"model": serves}
    taken.take("model")
    asked["messages"] = _messages(taken)
    renamed = {"max_tokens": "max_completion_tokens", "stop_sequences": "stop"}
    for name in ("max_tokens", "stop_sequences", "temperature", "top_p", "stream"):
        if (value := taken.take(name)) is not None:
            asked[renamed.get(name, name)] = value
    if prompt.stream:
        asked["stream_options"] = {"include_usage": True}
    _tools(taken, asked)
    _output(taken, asked)
    metadata = taken.take("metadata")
    if metadata is not None and mapped(metadata, "metadata").get("user_id") is not None:
        asked["user"] = metadata["user_id"]
    tier = taken.take("service_tier")
    if tier is not None:
        asked["service_tier"] = "default" if tier == "standard_only" else "auto"
    taken.take_only("thinking", {"type": "disabled"})
    taken.take("cache_control")  # these vendors keep prompts by themselves
    taken.end(drop, model, "OpenAI's API")
    return _encode(asked)


def _messages(taken: Taken) -> list[Json]:
    chat: list[Json] = []
    system = taken.take("system")
    if system:
        chat.append({"role": "system", "content": _content(system, "system", taken)})
    for at, given in enumerate(listed(taken.take("messages"), "messages")):
        place = f"messages[{at}]"
        message = mapped(given, place)
        role, content = message.get("role"), message.get("content")
        if role == "assistant":
            chat.append(_of_assistant(content, f"{place}.content", taken))
        elif role in ("user", "system"):
            results, others = _results(content, f"{place}.content", taken)
            chat += results
            if others is not None:
                chat.append({"role": role, "content": others})
        else:
            taken.lose(f"{place}.role")
    return chat


def _results(content: Any, place: str, taken: Taken) -> tuple[list[Json], Any]:
    """What tools have answered, each a message, and what is said besides (None: nothing)."""
    if isinstance(content, str):
        return [], content
    results: list[Json] = []
    others: list[Any] = []
    for at, given in enumerate(listed(content, place)):
        block = mapped(given, f"{place}[{at}]")
        if block.get("type") != "tool_result":
            others.append(block)
            continue
        told = block.get("content")
        text = "" if told is None else _content(told, f"{place}[{at}].content", taken, only_text=True)
        if block.get("is_error"):
            text = _ERROR + text if isinstance(text, str) else [{"type": "text", "text": _ERROR}, *text]
        results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
    return results, _content(others, place, taken) if others else None


def _content(content: Any, place: str, taken: Taken, *, only_text: bool = False) -> Any:
    """What a message says, as parts; as a text where it is no more than that."""
    if isinstance(content, str):
        return content
    parts: list[Json] = []
    for at, given in enumerate(listed(content, place)):
        block = mapped(given, f"{place}[{at}]")
        kind = block.get("type")
        part: Json | None = None
        if kind == "text":
            part = {"type": "text", "text": worded(block.get("text"), f"{place}[{at}].text")}
        elif kind == "image" and not only_text:
            url = _url(mapped(block.get("source"), f"{place}[{at}].source"))
            part = None if url is None else {"type": "image_url", "image_url": {"url": url}}
        elif kind == "document" and not only_text:
            part = _file(block, mapped(block.get("source"), f"{place}[{at}].source"))
        if part is None:
            taken.lose(f"{place}[{at}] ({kind})")
        else:
            parts.append(part)
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _url(source: Json) -> str | None:
    if source.get("type") == "url":
        return worded(source.get("url"), "source.url")
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    return None  # it lies with Anthropic


def _file(block: Json, source: Json) -> Json | None:
    if source.get("type") == "text":
        return {"type": "text", "text": worded(source.get("data"), "source.data")}
    if source.get("type") != "base64":
        return None
    return {"type": "file", "file": {"filename": block.get("title") or "document.pdf", "file_data": _url(source)}}


def _of_assistant(content: Any, place: str, taken: Taken) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    calls: list[Json] = []
    for at, given in enumerate(listed(content, place)):
        block = mapped(given, f"{place}[{at}]")
        if block.get("type") == "text":
            texts.append(worded(block.get("text"), f"{place}[{at}].text"))
        elif block.get("type") == "tool_use":
            function = {"name": block.get("name"), "arguments": _encode(block.get("input") or {}).decode()}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            taken.lose(f"{place}[{at}] ({block.get('type')})")
    said = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    return {**said, "tool_calls": calls} if calls else said


def _tools(taken: Taken, asked: Json) -> None:
    tools: list[Json] = []
    for at, given in enumerate(listed(taken.take("tools") or [], "tools")):
        tool = mapped(given, f"tools[{at}]")
        if tool.get("type") not in (None, "custom"):
            taken.lose(f"tools[{at}] ({tool.get('type')})")
            continue
        function = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
        tools.append({"type": "function", "function": {**function, "parameters": tool.get("input_schema") or {}}})
    if tools:
        asked["tools"] = tools
    choice = taken.take("tool_choice")
    if choice is None or not tools:
        return
    choice = mapped(choice, "tool_choice")
    kind = choice.get("type")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    asked["tool_choice"] = named if kind == "tool" else {"any": "required"}.get(str(kind), kind)
    if choice.get("disable_parallel_tool_use"):
        asked["parallel_tool_calls"] = False


def _output(taken: Taken, asked: Json) -> None:
    """What the answer is to look like, and how much thought goes into it."""
    config = mapped(taken.take("output_config") or {}, "output_config")
    wanted = taken.take("output_format") or config.get("format")
    if wanted is not None:
        schema = {"name": "answer", "schema": mapped(wanted, "output_config.format").get("schema"), "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    effort = config.get("effort")
    if effort in EFFORTS:
        asked["reasoning_effort"] = effort
    elif effort is not None:
        taken.lose("output_config.effort")


def read_answer(body: bytes, look: Look) -> Whole:
    """What a whole answer says of itself, and the answer as a message. Wrong where it is none, or not complete."""
    whole = openai_answers.read_answer(Form.CHAT, body, look)
    answer = msgspec.json.decode(body, type=Json)
    choice = answer["choices"][0]
    message: Json = choice.get("message") or {}
    said = message.get("content") or message.get("refusal")
    content: list[Json] = [{"type": "text", "text": said, "citations": None}] if said else []
    for call in map(part_of, message.get("tool_calls") or ()):
        function = part_of(call.get("function"))
        try:
            given = msgspec.json.decode(function.get("arguments") or "{}", type=Json)
        except (msgspec.DecodeError, TypeError):
            raise Wrong("the arguments of a tool's call are no JSON object") from None
        content.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given})
    finish = "content_filter" if message.get("refusal") else choice["finish_reason"]
    told = _message(answer.get("id") or "", whole.answered_as, content, _stop(finish), _usage(whole.tokens))
    return msgspec.structs.replace(whole, data=_encode(told))


def _message(message_id: str, model: str, content: list[Json], stop: str | None, usage: Json) -> Json:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def _stop(finish_reason: str) -> str:
    return STOP_OF_FINISH.get(finish_reason, "end_turn")


def _usage(tokens: Tokens | None) -> Json:
    tokens = tokens or Tokens()
    return {
        "input_tokens": max(tokens.input - tokens.cached - tokens.cache_write, 0),
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.output,
    }


class Stream:
    """The chunks of a chat as the events of messages: blocks are opened as something is said, and closed for the next."""

    def __init__(self, look: Look) -> None:
        self._native = openai_answers.Stream(True, look)
        self._blocks = 0  # that were opened
        self._open = ""  # what the open one holds: "text", or the index of a call
        self._finish = ""
        self._begun = False

    read_so_far = None

    @property
    def tokens(self) -> Tokens | None:
        return self._native.tokens

    @property
    def answered_as(self) -> str:
        return self._native.answered_as

    @property
    def chars(self) -> int:
        return self._native.chars

    @property
    def complete(self) -> bool:
        return self._native.complete

    @property
    def said(self) -> Said | None:
        return self._native.said

    def read(self, data: bytes) -> tuple[Piece, ...]:
        """As of answer.Stream."""
        (native,) = self._native.read(data)
        chunk = msgspec.json.decode(data, type=Json)
        pieces: list[Piece] = []
        if not self._begun:
            self._begun = True
            start = _message(chunk.get("id") or "", self.answered_as, [], None, _usage(None))
            pieces.append(_event("message_start", message=start))
        for choice in chunk.get("choices") or ():
            if choice.get("index"):
                continue
            delta: Json = choice.get("delta") or {}
            if text := delta.get("content") or delta.get("refusal"):
                pieces += self._block("text", {"type": "text", "text": "", "citations": None})
                pieces.append(self._delta({"type": "text_delta", "text": text}))
            for call in map(part_of, delta.get("tool_calls") or ()):
                pieces += self._call(call)
            if choice.get("finish_reason") is not None:
                self._finish = choice["finish_reason"]
        if native.said and not any(piece.said for piece in pieces):
            return (*pieces, Piece(b"", said=True))  # it thinks, in words that messages would want signed
        return tuple(pieces)

    def _call(self, call: Json) -> list[Piece]:
        function = part_of(call.get("function"))
        key = f"call {call.get('index', 0)}"
        block: Json = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
        if key != self._open and not function.get("name"):
            raise Wrong("it goes on with a tool's call that it hasn't begun")
        pieces = self._block(key, block)
        if function.get("arguments"):
            pieces.append(self._delta({"type": "input_json_delta", "partial_json": function["arguments"]}))
        return pieces

    def _block(self, key: str, block: Json) -> list[Piece]:
        """Have the block open that this belongs to."""
        if key == self._open:
            return []
        pieces = self._close()
        self._open = key
        self._blocks += 1
        started = _event("content_block_start", index=self._blocks - 1, content_block=block)
        return [*pieces, Piece(started.data, said=key != "text")]

    def _close(self) -> list[Piece]:
        if not self._open:
            return []
        self._open = ""
        return [_event("content_block_stop", index=self._blocks - 1)]

    def _delta(self, delta: Json) -> Piece:
        return Piece(_event("content_block_delta", index=self._blocks - 1, delta=delta).data, said=True)

    def end(self) -> tuple[Piece, ...]:
        """As of answer.Stream: the tokens come last in a chat, and with the reason for the end here."""
        ended = {"stop_reason": _stop(self._finish), "stop_sequence": None}
        delta = _event("message_delta", delta=ended, usage=_usage(self.tokens))
        return (*self._close(), delta, _event("message_stop"))


def _event(kind: str, **fields: Any) -> Piece:
    return Piece(_encode({"type": kind, **fields}))
