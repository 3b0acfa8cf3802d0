"""Recorded answers: which prompt is meant, whichever API asks, and what a file must hold."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servery.host.rows import Unreadable
from servery.vendor.answers import Unknown, last_said, read_answers

CSV = 'prompt,small,small sure,big\n"What is\n2 + 2?",4,0.5,It is 4.\nWhy?,,,Because.\nWhy?,late,1,late\n'
JSON = '{"prompt": "What is 2 + 2?", "small": "4", "small sure": 0.5, "big": "It is 4."}\n\n{"prompt": "Why?", "big": "Because."}\n{"prompt": "Why?", "big": "late", "small": "late"}\n'


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "hi"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}, {"type": "text", "text": "y"}]}]}, "x\ny"),
        ({"messages": [{"role": "system", "content": "s"}]}, "s"),
        ({"prompt": "once"}, "once"),
        ({"prompt": ["once", "twice"]}, "twice"),
        ({"input": "hi"}, "hi"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, "hi"),
        ({}, ""), ({"messages": []}, ""), ({"messages": 3}, ""), ({"messages": [[]]}, ""), ({"messages": [{}]}, ""),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, ""), ({"prompt": [1, 2]}, ""),
    ],
)  # fmt: skip
def test_the_last_that_the_caller_said(asked: dict[str, Any], text: str) -> None:
    assert last_said(asked) == text


def gzipped(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def plain(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("name", "text", "write"),
    [("a.csv", CSV, plain), ("a.CSV.GZ", CSV, gzipped), ("a.jsonl", JSON, plain), ("a.ndjson.gz", JSON, gzipped)],
)
def test_every_kind_of_file_holds_the_same(
    tmp_path: Path, name: str, text: str, write: Callable[[Path, str], None]
) -> None:
    write(tmp_path / name, text)
    answers = read_answers(tmp_path / name, "prompt", {"small": "small", "other": "big"})
    assert (answers.models, answers.prompts) == (("small", "other"), 2)
    small, other = answers.find("small", " What is 2  + 2?\n"), answers.find("other", "What is 2 + 2?")
    assert (small.text, small.sure) == ("4", 0.5)
    assert (other.text, other.sure) == ("It is 4.", None)
    assert answers.find("other", "Why?").text == "Because."  # the first one counts
    assert answers.find("small", "Why?").text == "late"  # no answer is none
    with pytest.raises(Unknown, match="no answer of 'small' was recorded to the prompt 'How\\?'"):
        answers.find("small", "How?")
    with pytest.raises(Unknown, match="'big' isn't among the recorded ones: 'small', 'other'"):
        answers.find("big", "Why?")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "a.txt: give a file that ends in .csv, .jsonl, .ndjson"),
        ("a.csv", b"", "holds no answers"),
        ("a.csv", b"prompt,small\nWhy?,\n", "holds no answers"),
        ("a.csv", b"question,small\nWhy?,x\n", "has no column 'prompt'; it has 'question', 'small'"),
        ("a.csv", b"prompt,big\nWhy?,x\n", "has no column 'small'"),
        ("a.csv", b"prompt,small\n ,x\n", "a.csv:2: the prompt \\('prompt'\\) must be a text"),
        ("a.csv", b"prompt,small\nWhy?,x,y\n", "a.csv:2: this line has not as many values as the first"),
        ("a.csv", b"prompt,small\nWhy?\n", "a.csv:2: this line has not as many values as the first"),
        ("a.csv", b"prompt,small,small sure\nWhy?,x,2\n", "a.csv:2: 'small sure' must be a number above 0 and up to 1"),
        ("a.csv", b"prompt,small,small sure\nWhy?,x,nan\n", "'small sure' must be a number"),
        ("a.csv", b"prompt,small\nWhy?,\xff\n", "is not UTF-8 text"),
        ("a.jsonl", b'{"prompt": "Why?", "small": 3}\n', "a.jsonl:1: 'small' must be a text"),
        ("a.jsonl", b'{"prompt": 3, "small": "x"}\n', "must be a text"),
        ("a.jsonl", b'{"prompt": "Why?", "small": "x"}\n[]\n', "line 2 is no object in JSON"),
        ("a.csv.gz", b"prompt,small\nWhy?,x\n", "can't be read"),
        ("a.csv.gz", gzip.compress(b"prompt,small\nWhy?,x\n", mtime=0)[:-9], "can't be read"),
    ],
)  # fmt: skip
def test_a_file_that_cant_be_used_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=told):
        read_answers(tmp_path / name, "prompt", {"small": "small"})
