"""Labelled examples from files: every form, and what is said of those that can't be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from servery.learning.examples import Unusable, read_examples, right
from servery.terms.tensors import Signature, TensorSpec

IMAGE = Signature((TensorSpec("pixels", "FP32", (-1, 2, 2)),), ())
TWO = Signature((TensorSpec("a", "INT64", (-1, 2)), TensorSpec("word", "BYTES", (-1,))), ())


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def test_csv_for_one_input_takes_all_columns_but_the_label(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", "p0,p1,label,p2,p3\n0,1.5,7,2,3\n\n4,5,8,6,7\n")
    found = read_examples(path, IMAGE, "label")
    assert found.labels == ("7", "8")
    assert found.feeds["pixels"].dtype == np.float32
    assert found.feeds["pixels"].tolist() == [[[0, 1.5], [2, 3]], [[4, 5], [6, 7]]]
    assert found.part(1, 2)["pixels"].shape == (1, 2, 2)


def test_csv_for_several_inputs_goes_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", 'word,truth,a.1,a.0,unused\n"näh, ja",yes,2,1,x\nno,no,9007199254740993,3,y\n')
    found = read_examples(path, TWO, "truth")
    assert found.labels == ("yes", "no")
    assert found.feeds["a"].tolist() == [[1, 2], [3, 9007199254740993]]
    assert found.feeds["word"].tolist() == ["näh, ja".encode(), b"no"]


def test_lines_of_json_and_npz_go_by_name(tmp_path: Path) -> None:
    lines = [{"word": "w", "a": [1, 2], "label": True}, {"word": "v", "a": [3, 4], "label": 5}]
    path = written(tmp_path, "x.ndjson", "\n".join(map(json.dumps, lines)) + "\n\n")
    found = read_examples(path, TWO, "label")
    assert found.labels == ("true", "5")
    assert found.feeds["a"].tolist() == [[1, 2], [3, 4]]
    np.savez(tmp_path / "x.npz", pixels=np.arange(8).reshape(2, 4), label=np.array([3, 4]))
    held = read_examples(tmp_path / "x.npz", IMAGE, "label")
    assert held.labels == ("3", "4")
    assert held.feeds["pixels"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


BAD = [
    ("x.txt", "", IMAGE, "give a file that ends in .csv"),
    ("x.csv", "", IMAGE, "no column `label`: name it with --label; it has nothing"),
    ("x.csv", "a,b\n1,2\n", IMAGE, "it has `a`, `b`"),
    ("x.csv", "label,a\n", Signature((TensorSpec("x", "FP32", (-1, 1)),), ()), "no examples"),
    ("x.csv", "label,a,b,c\n", IMAGE, "takes 4 values a row, but 3 columns"),
    ("x.csv", "label,a,b\n", TWO, "call them `a`, or `a.0`, `a.1`"),
    ("x.csv", "label,a,b,c,d\n1,2,3\n", IMAGE, "x.csv:2: has 3 values, but the first line 5"),
    ("x.csv", "label,a,b,c,d\n1,2,x,3,4\n", IMAGE, "example 1: it doesn't fit the input `pixels`, FP32"),
    ("x.csv", "label,word,a.0,a.1\n1,w,1.5,2\n", TWO, "example 1: it doesn't fit the input `a`, INT64"),
    ("x.jsonl", '{"label": 1}\n', IMAGE, "x.jsonl:1: has no `pixels`; it has `label`"),
    ("x.jsonl", '{"label": 1,\n', IMAGE, "x.jsonl:1: is no object in JSON"),
    ("x.jsonl", '{"label": 1, "pixels": [[1, 2], [3]]}\n', IMAGE, "example 1: it doesn't"),
    ("x.npz", "no archive", IMAGE, "can't be read as npz"),
    ("x.csv", "label,a\n", Signature((TensorSpec("x", "FP32", ()),), ()), "no part for each row"),
]


@pytest.mark.parametrize(("name", "text", "signature", "message"), BAD)
def test_what_cannot_be_used_is_told(tmp_path: Path, name: str, text: str, signature: Signature, message: str) -> None:
    with pytest.raises(Unusable) as told:
        read_examples(written(tmp_path, name, text), signature, "label")
    assert message in str(told.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"label,a\n\xff,1\n")
    with pytest.raises(Unusable, match="not UTF-8"):
        read_examples(tmp_path / "x.csv", IMAGE, "a")


@pytest.mark.parametrize(
    ("answers", "labels", "told"),
    [
        (np.array([7, 8]), ("7.0", "7"), [True, False]),
        (np.array([[0.5], [1]]), ("0.5", "x"), [True, False]),
        (np.array([b"cat", "dog"], object), ("cat", "cat"), [True, False]),
        (np.array([True, False]), ("true", "true"), [True, False]),
    ],
)
def test_answers_are_right_where_they_are_the_label(
    answers: np.ndarray, labels: tuple[str, ...], told: list[bool]
) -> None:
    assert right(answers, labels).tolist() == told
