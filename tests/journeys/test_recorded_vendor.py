"""The fake vendor with recorded answers, asked by the vendors' own clients, and by Servery."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from fake_vendor import FakeVendor
from living import servery
from server import Server

SUM, WHY = "What is 2 + 2?", "Why is the sky blue? – be brief"
SAID = {"small": {SUM: "It is 4 or 5."}, "large": {SUM: "2 + 2 = 4", WHY: "Rayleigh scattering.\n\nThat's all: «λ⁻⁴»."}}
PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    folder = tmp_path_factory.mktemp("vendor")
    with gzip.open(folder / "judged.csv.gz", "wt", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["question", "small sure", "small", "large says", "right"])
        lines.writerow([SUM, "0.5", SAID["small"][SUM], SAID["large"][SUM], "1"])
        lines.writerow([WHY, "", "", SAID["large"][WHY], ""])
    columns = ("--prompt", "question", "--answer", "small", "--answer", "large=large says")
    with FakeVendor(folder, "--answers", str(folder / "judged.csv.gz"), *columns) as vendor:
        assert "with answers of small, large to 2 prompts" in (folder / "vendor.txt").read_text()
        yield vendor


@pytest.fixture(scope="module")
def chat(vendor: FakeVendor) -> openai.OpenAI:
    return openai.OpenAI(base_url=vendor.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def messages(vendor: FakeVendor) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=vendor.url.removesuffix("/v1"), api_key="none", max_retries=0)


def said(text: str) -> list[Any]:
    return [{"role": "system", "content": "Be right."}, {"role": "user", "content": text}]


def asked(text: str) -> dict[str, Any]:
    return {"max_tokens": 50, "system": "Be right.", "messages": said(text)[1:]}


@pytest.mark.parametrize(("model", "prompt"), [(model, prompt) for model, texts in SAID.items() for prompt in texts])
def test_what_was_said_is_said_again_over_each_api(
    chat: openai.OpenAI, messages: anthropic.Anthropic, model: str, prompt: str
) -> None:
    text = SAID[model][prompt]
    assert chat.chat.completions.create(model=model, messages=said(prompt)).choices[0].message.content == text
    chunks = chat.chat.completions.create(model=model, messages=said(prompt), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chat.completions.create(model=model, prompt=prompt).choices[0].text == text
    assert chat.responses.create(model=model, input=prompt).output_text == text
    message = messages.messages.create(model=model, **asked(prompt))
    assert [block.text for block in message.content if block.type == "text"] == [text]
    with messages.messages.stream(model=model, **asked(prompt)) as stream:
        assert "".join(stream.text_stream) == text


def test_it_is_as_sure_as_was_recorded(chat: openai.OpenAI) -> None:
    for model, sure in (("small", 0.5), ("large", 0.9), ("large?sure=0.3", 0.3)):
        answer = chat.chat.completions.create(model=model, messages=said(SUM), logprobs=True)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert 2.718281828 ** logprobs.content[0].logprob == pytest.approx(sure)


@pytest.mark.parametrize(("model", "prompt"), [("small", WHY), ("small", "What is 3 + 3?"), ("medium", SUM)])
def test_what_was_never_asked_is_not_found(
    vendor: FakeVendor, chat: openai.OpenAI, messages: anthropic.Anthropic, model: str, prompt: str
) -> None:
    before = len(vendor.invoice())
    told = f"no answer of '{model}' was recorded to the prompt" if model == "small" else "isn't among the recorded ones"
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match=told):
            chat.chat.completions.create(model=model, messages=said(prompt), stream=stream)
        with pytest.raises(anthropic.NotFoundError, match=told) as refused:
            messages.messages.create(model=model, **asked(prompt), stream=stream)
        assert refused.value.type == "not_found_error"
    assert len(vendor.invoice()) == before


def test_faults_and_the_invoice_are_those_of_any_fake_vendor(vendor: FakeVendor, chat: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        chat.chat.completions.create(model="large?fault=429", messages=said(SUM))
    usage = chat.chat.completions.create(model="large?reasoning=3", messages=said(SUM)).usage
    assert usage is not None
    line = vendor.invoice()[-1]
    assert (line["model"], line["reported"]) == ("large?reasoning=3", True)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert chat.chat.completions.create(model="large?says=no", messages=said("?")).choices[0].message.content == "no"
    assert [model.id for model in chat.models.list()] == ["small", "large"]
    assert chat.embeddings.create(model="any", input="x", encoding_format="float").data


def test_a_cascade_asks_the_one_that_knows(vendor: FakeVendor, tmp_path: Path) -> None:
    """The cheap model isn't sure of one prompt and has no answer to the other; nobody has one to the third."""
    models = {name: {"runtime": "openai", "endpoint": vendor.url, "price": PRICE} for name in SAID}
    tiers = [
        {"name": "cheap", "model": "small", "accept": {"check": "logprob", "confidence": 0.8}},
        {"name": "dear", "model": "large"},
    ]
    route = {"policy": {"kind": "cascade"}, "tiers": tiers}
    with Server(tmp_path, {"models": models, "routes": {"route": route}}) as server:
        for prompt, status in ((SUM, 200), (WHY, 200), ("Never asked", 502)):
            body = json.dumps({"model": "route", "messages": said(prompt)})
            reply = server.ask("POST", "/v1/chat/completions", body)
            assert reply.status == status, reply.body
            if status == 200:
                assert reply.json["choices"][0]["message"]["content"] == SAID["large"][prompt]
        rows = server.await_records("select attempts from records order by at_ns", 3)
    outcomes = [[attempt["outcome"] for attempt in json.loads(attempts)] for (attempts,) in rows]
    assert outcomes == [["served", "served"], ["failed", "served"], ["failed", "failed"]]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prompt,small\nWhy?,x\n")
    for options, told in (
        (["--answers", file], "say once for each model: --answer MODEL[=COLUMN]"),
        (["--answer", "small"], "give that with --answers"),
        (["--answers", file, "--answer", "large"], "has no column 'large'; it has 'prompt', 'small'"),
        (["--answers", tmp_path / "b.csv", "--answer", "small"], f"{tmp_path / 'b.csv'}: No such file or directory"),
    ):
        done = servery("fake-vendor", *options)
        assert done.returncode in (1, 2)
        assert told in done.stderr
