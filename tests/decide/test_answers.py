"""What is looked at of an answer, what a Verifier makes of it, and what is refused as one."""

from __future__ import annotations

import io
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.answers import COUNTS, MOST_CHARS, MOST_OF_PROMPT, features_of
from servery.routing.learned import BITS, Bins, Features, Learned, Linear, Trees, sigmoid
from servery.routing.learned_file import BadFile
from servery.routing.router_file import decode_router
from servery.routing.verifier import Verifier, check_by
from servery.routing.verifier_file import Trained, decode_verifier, encode_verifier
from servery.terms.text import Form, Look, Prompt, Said

TEXTS = st.text(st.characters(codec=None), max_size=300)
PROMPT = "Ann has 3 bags of 12 apples and gives half of them away. How many are left?"
GOOD = "She has 3 x 12 = 36 apples.\nShe keeps 36 / 2 = 18.\n#### 18"


def count(name: str, prompt: str, answer: str) -> float:
    return features_of(prompt, answer).counts[COUNTS.index(name)]


@given(TEXTS, TEXTS)
def test_any_texts_have_features(prompt: str, answer: str) -> None:
    features = features_of(prompt, answer)
    assert features.counts.shape == (len(COUNTS),)
    assert np.isfinite(features.counts).all()
    for vector in (features.words, features.grams):
        assert ((vector.indices >= 0) & (vector.indices < 2**BITS)).all()


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "=", "####", "\ud800", "\x00" * 9, "9" * 999, "\\boxed{", "1e999 = 2 + 2", "0² + 3½"]
)
def test_texts_with_next_to_nothing_in_them(text: str) -> None:
    for prompt, answer in ((text, text), ("", text), (text, "")):
        assert np.isfinite(features_of(prompt, answer).counts).all()


@pytest.mark.parametrize(
    ("name", "answer", "value"),
    [
        ("characters", "four", math.log1p(4)),
        ("lines", "a\n\nb\nc", math.log1p(3)),
        ("last line", "a\nfour\n", math.log1p(4)),
        ("distinct words", "a a a b", 0.5),
        ("repeated lines", "a\nb\na\na", math.log1p(2)),
        ("doubts", "However, it may be that, WAIT, no", math.log1p(2)),
        ("refuses", "Sorry, I can't say", 1),
        ("ends", "It is 18.", 1),
        ("ends", "It is 18", 1),
        ("ends", "It is", 0),
        ("breaks off", "12 / 2 = <<12/2", 1),
        ("breaks off", "12 / 2 = <<12/2=6>>6", 0),
        ("breaks off", "```\ncode", 1),
        ("share of words in the prompt", "apples are red", 2 / 3),
        ("prompt's numbers", "", math.log1p(2)),
        ("prompt's numbers unused", GOOD, 0),
        ("prompt's numbers unused", "It is 12.", math.log1p(1)),
        ("share of them used", "It is 12.", 0.5),
        ("equations", GOOD, math.log1p(2)),
        ("wrong", GOOD, 0),
        ("wrong", GOOD.replace("= 36", "= 35"), math.log1p(1)),
        ("share of wrong", GOOD.replace("= 36", "= 35"), 0.5),
        ("inexact", "10 / 3 = 3.3", math.log1p(1)),
        ("wrong", "10 / 3 = 3.3", 0),
        ("fractional results", "10 / 4 = 2.5", math.log1p(1)),
        ("negative results", "10 - 14 = -4", math.log1p(1)),
        ("largest result", GOOD, math.log1p(36)),
        ("results in the prompt", "6 + 6 = 12", math.log1p(1)),
        ("unfounded operands", GOOD, 0),
        ("unfounded operands", "3 x 17 = 51", math.log1p(1)),
        ("share of unfounded operands", "3 x 17 = 51", 0.5),
        ("has a final number", "none", 0),
        ("has a final number", GOOD, 1),
        ("it is marked", GOOD, 1),
        ("it is marked", "The answer is 18, of 36.", 1),
        ("it is marked", "So \\boxed{18}.", 1),
        ("it is marked", "So 18.", 0),
        ("it is a result", GOOD, 1),
        ("it is the last result", GOOD, 1),
        ("it is the last result", GOOD.replace("#### 18", "#### 36"), 0),
        ("it is whole", "#### 2.5", 0),
        ("it is in the prompt", "#### 12", 1),
        ("it is said before", GOOD, 1),
        ("it is said before", "#### 7", 0),
        ("its size", GOOD, math.log1p(18)),
    ],
)
def test_counts(name: str, answer: str, value: float) -> None:
    assert count(name, PROMPT, answer) == pytest.approx(value, abs=1e-6)


def same(one: Features, other: Features) -> bool:
    pairs = ((one.words, other.words), (one.grams, other.grams))
    return all(np.array_equal(a.indices, b.indices) for a, b in pairs) and np.array_equal(one.counts, other.counts)


def test_only_the_ends_of_long_texts_are_looked_at() -> None:
    answer, prompt = "x" + GOOD * (MOST_CHARS // len(GOOD) + 1), "y" * MOST_OF_PROMPT
    assert same(features_of("12 " + prompt, "17 " + answer), features_of(prompt, answer))
    assert not same(features_of(prompt, answer + " 17"), features_of(prompt, answer))


def verifier(threshold: float = 0.5) -> Verifier:
    """One that finds an answer bad where its share of wrong equations is above the threshold."""
    zeros = np.zeros(2**BITS, np.float32)
    trees = Trees(
        np.array([[COUNTS.index("share of wrong"), 0, 0]]),
        np.array([[threshold, 0.0, 0.0]]),
        np.array([[1, 1, 2]]),
        np.array([[2, 1, 2]]),
        np.array([[9.0, 2.0, -2.0]]),
        1,
        0.0,
    )
    linear = Linear(zeros, zeros, np.array([0.25]), 0.0)
    bins = Bins(np.array([COUNTS.index("equations")]), np.array([0.5]))
    return Verifier(bins, Learned(linear, trees), (1.0, 0.5), (2.0, -0.5))


def test_a_chance_is_what_both_looks_say_set_to_scale() -> None:
    assert verifier().chance(PROMPT, GOOD) == pytest.approx(sigmoid(2 * (0.25 + 0.5 * 2) - 0.5))
    assert verifier().chance(PROMPT, "It is 18.") == pytest.approx(sigmoid(2 * 0.5 * 2 - 0.5))
    assert verifier().chance(PROMPT, "1 + 1 = 3") == pytest.approx(sigmoid(2 * (0.25 - 0.5 * 2) - 0.5))


def test_as_a_check_it_reads_the_text_and_is_never_sure_of_none() -> None:
    check = check_by(verifier())
    prompt = Prompt(Form.CHAT, "m", {}, False, False, PROMPT, len(PROMPT))
    assert (check.look, check.twice) == (Look.TEXT, False)
    assert check.score(prompt, Said(GOOD)) == verifier().chance(PROMPT, GOOD)
    assert check.score(prompt, Said("")) == 0


def test_a_verifier_is_the_same_after_it_was_written() -> None:
    trained = Trained(verifier(), 321, 0.75)
    again = decode_verifier(encode_verifier(trained))
    assert (again.rows, again.confidence) == (321, 0.75)
    for answer in (GOOD, "1 + 1 = 3", ""):
        assert again.verifier.chance(PROMPT, answer) == trained.verifier.chance(PROMPT, answer)


def test_what_is_no_verifier_is_refused() -> None:
    content = encode_verifier(Trained(verifier(), 321, 0.75))
    for other in (b"", b"no verifier", content[: len(content) // 2]):
        with pytest.raises(BadFile, match=r"^is not a verifier: write one with `servery verifier train`"):
            decode_verifier(other)
    with pytest.raises(BadFile, match=r"^is a verifier, and no router: write one with `servery router train`"):
        decode_router(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("right_feature", len(COUNTS)),
        ("right_left", 3),
        ("right_right", -1),
        ("edge_counts", len(COUNTS)),
        ("edges", math.nan),
        ("right_value", math.inf),
        ("right_words", math.nan),
    ],
)
def test_an_index_that_points_nowhere_or_a_number_that_is_none_is_refused(name: str, value: float) -> None:
    changed = arrays()
    changed[name] = changed[name].copy()
    changed[name].flat[0] = value
    with pytest.raises(BadFile, match=r"^is damaged: write it again with `servery verifier train`"):
        decode_verifier(saved(changed))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("right_words", np.zeros(8, np.float32)),
        ("right_grams", np.zeros(2**BITS, np.complex64)),
        ("right_bins", np.zeros(2)),
        ("right_value", np.zeros((1, 2))),
        ("right_feature", np.zeros((1, 3))),
        ("right_feature", np.zeros(3, np.int64)),
        ("edge_counts", np.zeros(2, np.int64)),
    ],
)
def test_arrays_that_dont_fit_together_are_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(BadFile, match=r"^is damaged"):
        decode_verifier(saved({**arrays(), name: value}))


def test_another_version_or_a_depth_that_isnt_there_is_refused() -> None:
    about = msgspec.json.decode(arrays()["about"].tobytes())
    for change, said in (({"version": 2}, "is a verifier of version 2; this Servery reads version 1"), ({"right": [0, 9, 0]}, "is damaged"),
                         ({"mix": None}, "is not a verifier")):  # fmt: skip
        raw = np.frombuffer(msgspec.json.encode({**about, **change}), np.uint8)
        with pytest.raises(BadFile, match=said):
            decode_verifier(saved({**arrays(), "about": raw}))


def arrays() -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(encode_verifier(Trained(verifier(), 321, 0.75)))) as found:
        return dict(found)


def saved(parts: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **parts)  # pyright: ignore[reportArgumentType]
    return content.getvalue()
