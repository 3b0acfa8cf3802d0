"""OpenAI's chat for an endpoint of Anthropic's API: the prompt there, the answer and its stream back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from servery.terms.text import Look, Piece, Prompt, Said, Tokens
from servery.wire import messages
from servery.wire.answer import Whole
from servery.wire.translating import EFFORTS, FINISH_OF_STOP, Json, Taken, listed, mapped, part_of, worded

# Messages need a bound, which chats needn't have.
MOST_TOKENS = 4096
_encode = msgspec.json.Encoder().encode


def encode_prompt(prompt: Prompt, serves: msgspec.Raw, model: str, drop: bool) -> bytes:
    """The prompt as messages, for an endpoint that calls the model `serves` (as JSON). Refusal names what can't be kept."""
    taken = Taken(prompt.fields)
    asked: Json = {"model": serves, "max_tokens": MOST_TOKENS}
    taken.take("model")
    for name in ("max_tokens", "max_completion_tokens"):
        if (most := taken.take(name)) is not None:
            asked["max_tokens"] = most
    system, asked["messages"] = _messages(taken)
    if system:
        asked["system"] = system
    for name in ("top_p", "stream", "top_k", "thinking"):
        if (value := taken.take(name)) is not None:
            asked[name] = value
    taken.take("stream_options")
    _temperature(taken, asked)
    _stop(taken, asked)
    _tools(taken, asked)
    _output(taken, asked)
    user = taken.take("safety_identifier") or taken.take("user")
    if user is not None:
        asked["metadata"] = {"user_id": user}
    if (tier := taken.take("service_tier")) is not None:
        if tier in ("auto", "default"):
            asked["service_tier"] = "auto" if tier == "auto" else "standard_only"
        else:
            taken.lose("service_tier")
    taken.take_only("n", 1)
    taken.take_only("store", False)
    taken.take_only("logprobs", False)
    taken.take_only("top_logprobs", 0)
    taken.take_only("frequency_penalty", 0)
    taken.take_only("presence_penalty", 0)
    taken.take_only("logit_bias", {})
    taken.take_only("modalities", ["text"])
    taken.end(drop, model, "Anthropic's API")
    return _encode(asked)


def _messages(taken: Taken) -> tuple[list[Json], list[Json]]:
    """The system's blocks, and the turns, in which those of one role that follow each other are one."""
    system: list[Json] = []
    turns: list[Json] = []
    for at, given in enumerate(listed(taken.take("messages"), "messages")):
        place = f"messages[{at}]"
        message = mapped(given, place)
        role = message.get("role")
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), f"{place}.content", taken)
            continue
        if role == "user":
            blocks = _blocks(message.get("content"), f"{place}.content", taken)
        elif role == "assistant":
            blocks = _of_assistant(message, place, taken)
        elif role == "tool":
            role = "user"
            text = _blocks(message.get("content"), f"{place}.content", taken)
            blocks = [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": text}]
        else:
            taken.lose(f"{place}.role")
            continue
        if message.get("name") is not None:
            taken.lose(f"{place}.name")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _blocks(content: Any, place: str, taken: Taken) -> list[Json]:
    """What a message says, in blocks; a text that is empty is none."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks: list[Json] = []
    for at, given in enumerate(listed(content, place)):
        part = mapped(given, f"{place}[{at}]")
        kind = part.get("type")
        block: Json | None = None
        if kind in ("text", "refusal"):
            block = {"type": "text", "text": worded(part.get(kind), f"{place}[{at}].{kind}")}
        elif kind == "image_url":
            block = {"type": "image", "source": _image(part.get("image_url"), f"{place}[{at}].image_url")}
        elif kind == "file":
            block = _document(mapped(part.get("file"), f"{place}[{at}].file"))
        if block is None:
            taken.lose(f"{place}[{at}] ({kind})")
        elif block.get("text") != "":
            if "cache_control" in part:
                block["cache_control"] = part["cache_control"]
            blocks.append(block)
    return blocks


def _image(given: Any, place: str) -> Json:
    return _source(worded(mapped(given, place).get("url"), f"{place}.url"))


def _source(url: str) -> Json:
    head, comma, data = url.partition(";base64,")
    if comma and head.startswith("data:"):
        return {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
    return {"type": "url", "url": url}


def _document(file: Json) -> Json | None:
    data = file.get("file_data")
    if not isinstance(data, str):
        return None  # it lies with OpenAI
    source = _source(data)
    if source["type"] == "url":
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
    name = file.get("filename")
    return {"type": "document", "source": source, **({"title": name} if name else {})}


def _of_assistant(message: Json, place: str, taken: Taken) -> list[Json]:
    blocks = _blocks(message.get("content"), f"{place}.content", taken)
    if message.get("refusal"):
        blocks.append({"type": "text", "text": worded(message["refusal"], f"{place}.refusal")})
    for name in ("function_call", "audio"):
        if message.get(name) is not None:
            taken.lose(f"{place}.{name}")
    for at, given in enumerate(listed(message.get("tool_calls") or [], f"{place}.tool_calls")):
        here = f"{place}.tool_calls[{at}]"
        call = mapped(given, here)
        if call.get("type") != "function":
            taken.lose(here)
            continue
        function = mapped(call.get("function"), f"{here}.function")
        arguments = _arguments(function.get("arguments"))
        if arguments is None:
            taken.lose(f"{here}.function.arguments")
            continue
        blocks.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments})
    return blocks


def _arguments(text: Any) -> Json | None:
    """A call's arguments as an object; None where they are no such thing."""
    try:
        return msgspec.json.decode(text or "{}", type=Json)
    except (msgspec.DecodeError, TypeError):
        return None


def _temperature(taken: Taken, asked: Json) -> None:
    """It goes to 2 there, and to 1 here."""
    given = taken.take("temperature")
    if isinstance(given, int | float) and given > 1:
        taken.lose("temperature")
        given = 1
    if given is not None:
        asked["temperature"] = given


def _stop(taken: Taken, asked: Json) -> None:
    given = taken.take("stop")
    if given is not None:
        asked["stop_sequences"] = [given] if isinstance(given, str) else listed(given, "stop")


def _tools(taken: Taken, asked: Json) -> None:
    tools: list[Json] = []
    for at, given in enumerate(listed(taken.take("tools") or [], "tools")):
        tool = mapped(given, f"tools[{at}]")
        if tool.get("type") != "function":
            taken.lose(f"tools[{at}] ({tool.get('type')})")
            continue
        function = mapped(tool.get("function"), f"tools[{at}].function")
        named = {name: function[name] for name in ("name", "description") if function.get(name) is not None}
        schema: Any = function.get("parameters") or {"type": "object", "properties": {}}
        tools.append({**named, "input_schema": schema, **({"strict": True} if function.get("strict") else {})})
    if tools:
        asked["tools"] = tools
    chosen, parallel = taken.take("tool_choice"), taken.take("parallel_tool_calls")
    if not tools:
        return
    choice: Json = {"type": "auto"}
    if isinstance(chosen, dict):
        named = mapped(chosen, "tool_choice")
        if named.get("type") == "function":
            choice = {"type": "tool", "name": mapped(named.get("function"), "tool_choice.function").get("name")}
        else:
            taken.lose("tool_choice")
    elif chosen in ("none", "required"):
        choice = {"type": "none" if chosen == "none" else "any"}
    if parallel is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    if choice != {"type": "auto"} or chosen == "auto":
        asked["tool_choice"] = choice


def _output(taken: Taken, asked: Json) -> None:
    """What the answer is to look like, and how much thought goes into it."""
    config: Json = {}
    wanted = taken.take("response_format")
    if wanted is not None:
        wanted = mapped(wanted, "response_format")
        if wanted.get("type") == "json_schema":
            schema = mapped(wanted.get("json_schema"), "response_format.json_schema").get("schema")
            config["format"] = {"type": "json_schema", "schema": schema}
        elif wanted.get("type") != "text":
            taken.lose("response_format")
    effort = taken.take("reasoning_effort")
    if effort in EFFORTS:
        config["effort"] = effort
    elif effort is not None:
        taken.lose("reasoning_effort")
    if config:
        asked["output_config"] = config


def read_answer(body: bytes, look: Look, created_s: int) -> Whole:
    """What a whole answer says of itself, and the answer as chat. Wrong where it is none, or not complete."""
    whole = messages.read_answer(body, look)
    answer = msgspec.json.decode(body, type=Json)
    said: list[str] = []
    thought: list[str] = []
    calls: list[Json] = []
    for block in answer["content"]:
        kind = block.get("type")
        if kind == "text":
            said.append(block.get("text") or "")
        elif kind == "thinking":
            thought.append(block.get("thinking") or "")
        elif kind == "tool_use":
            arguments = msgspec.json.encode(block.get("input") or {}).decode()
            calls.append(_call(block, arguments))
    message: Json = {"role": "assistant", "content": "".join(said) if said or not calls else None, "refusal": None}
    if thought:
        message["reasoning_content"] = "".join(thought)
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer["stop_reason"])}
    chat: Json = {
        "id": answer.get("id") or "",
        "object": "chat.completion",
        "created": created_s,
        "model": whole.answered_as,
        "choices": [choice],
    }
    if whole.tokens is not None:
        chat["usage"] = _usage(whole.tokens)
    return msgspec.structs.replace(whole, data=_encode(chat))


def _call(block: Json, arguments: str) -> Json:
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _finish(stop_reason: Any) -> str:
    return FINISH_OF_STOP.get(stop_reason, "stop")


def _usage(tokens: Tokens) -> Json:
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.total,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "cache_creation_input_tokens": tokens.cache_write,
    }


class Stream:
    """The events of messages as the chunks of a chat."""

    def __init__(self, usage_wanted: bool, look: Look, created_s: int) -> None:
        self._native = messages.Stream(look)
        self._usage_wanted = usage_wanted
        self._created_s = created_s
        self._id = ""
        self._calls: dict[Any, int] = {}  # of the tools that are called, by the block's index

    @property
    def tokens(self) -> Tokens | None:
        return self._native.tokens

    @property
    def read_so_far(self) -> Tokens | None:
        return self._native.read_so_far

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
        (piece,) = self._native.read(data)
        event = msgspec.json.decode(data, type=Json)
        kind = event["type"]
        if kind == "message_start":
            self._id = part_of(event.get("message")).get("id") or ""
            return self._chunk({"role": "assistant", "content": ""}, said=False)
        if kind == "content_block_start":
            block = part_of(event.get("content_block"))
            if block.get("type") == "tool_use":
                number = self._calls[event.get("index")] = len(self._calls)
                return self._chunk({"tool_calls": [{"index": number, **_call(block, "")}]}, said=True)
        elif kind == "content_block_delta":
            delta = self._delta(part_of(event.get("delta")), event.get("index"))
            return self._chunk(delta, said=piece.said) if delta else ()
        elif kind == "message_delta":
            reason = part_of(event.get("delta")).get("stop_reason")
            if reason is not None:
                return self._chunk({}, said=False, finish=_finish(reason))
        return ()

    def _delta(self, delta: Json, index: Any) -> Json:
        match delta.get("type"):
            case "text_delta":
                return {"content": delta.get("text")}
            case "thinking_delta":
                return {"reasoning_content": delta.get("thinking")}
            case "input_json_delta" if index in self._calls and delta.get("partial_json"):
                return {"tool_calls": [{"index": self._calls[index], "function": {"arguments": delta["partial_json"]}}]}
            case _:
                return {}

    def _chunk(self, delta: Json, *, said: bool, finish: str | None = None) -> tuple[Piece, ...]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return (Piece(_encode({**self._head(), "choices": [choice]}), said),)

    def _head(self) -> Json:
        kind = "chat.completion.chunk"
        return {"id": self._id, "object": kind, "created": self._created_s, "model": self.answered_as}

    def end(self) -> tuple[Piece, ...]:
        """As of answer.Stream: the tokens, where they are wanted and known."""
        tokens = self.tokens
        if not self._usage_wanted or tokens is None:
            return ()
        return (Piece(_encode({**self._head(), "choices": [], "usage": _usage(tokens)})),)
