"""Declare: every fault of a file is found at once, with its place; junk never raises."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.control.declare import Declared, declare
from servery.control.places import at, parent
from servery.terms.manifest import Manifest
from servery.terms.routes import Accept

GOOD = """\
servery: 1
models:
  small:
    runtime: onnx
    artifact: models/small.onnx
    confidence: {output: probabilities, from: margin}
    price: {usd_per_hour: 1}
routes:
  digits:
    policy: {kind: cascade}
    tiers:
      - {name: cheap, model: small, accept: {confidence: 0.95, range: [0.85, 1]}}
      - name: premium
        model: small
"""


def of(tmp_path: Path, text: str | bytes) -> Declared:
    path = tmp_path / "servery.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return declare(path)


def test_a_good_file_becomes_a_frozen_manifest(tmp_path: Path) -> None:
    declared = of(tmp_path, GOOD)
    assert declared.problems == ()
    assert declared.manifest is not None
    assert declared.manifest.models["small"].confidence is not None
    assert declared.manifest.models["small"].confidence.source == "margin"
    assert declared.manifest.routes["digits"].tiers[0].accept == Accept(0.95, (0.85, 1.0))
    assert len(declared.digest) == 64


def test_places_name_the_line_of_every_part_or_of_what_surrounds_it(tmp_path: Path) -> None:
    places = of(tmp_path, GOOD).places
    assert places.of("routes.digits.tiers[1].model") == (14, 16)
    assert places.of("routes.digits.tiers[0].accept.range[1]") == (12, 78)
    assert places.of("routes.digits.tiers[1].accept.confidence") == (13, 9)
    assert places.of("models.small") == (3, 3)
    assert places.of("tenants.acme") == (0, 0)


# (a fragment to write, line, column, where, a part of the message, a part of the fix)
FAULTS = [
    ("servery: 2", 1, 10, "servery", "can't be the number 2", "write `1`"),
    ('servery: "1"', 1, 10, "servery", "can't be the text '1'", "write `1`"),
    ("{}", 1, 1, "", "'servery' is missing", "add `servery:`"),
    ("servery: 1\nmodles: {}", 2, 1, "modles", "unknown key 'modles'", "did you mean `models`?"),
    ("servery: 1\nxyzzy: {}", 2, 1, "xyzzy", "unknown key", "the keys here are `servery`, `models`"),
    ("servery: 1\nmodels: []", 2, 1, "models", "can't be a list", "a mapping from names"),
    ("servery: 1\nmodels:", 2, 1, "models", "can't be nothing", "a mapping from names"),
    ("servery: 1\nmodels: {a: 1}", 2, 13, "models.a", "can't be the number 1", "`runtime`"),
    ("servery: 1\nmodels: {a: {artifact: x}}", 2, 10, "models.a", "'runtime' is missing", "add `runtime:`"),
    ("servery: 1\nmodels: {1: {runtime: onnx, artifact: x}}", 2, 10, "models", "a key must be text", 'quotes: "1"'),
    ("servery: 1\nregion: 1", 2, 9, "region", "can't be the number 1", 'in quotes: "1"'),
    ("servery: 1\nregion: yes\nregion: no", 3, 1, "region", "written twice (first on line 2)", "keep one"),
    ('servery: 1\nregion: ""', 2, 9, "region", "can't be the text ''", "text of 1 to 128 printable"),
    ('servery: 1\nregion: "a\\u0007"', 2, 9, "region", r"'a\x07'", "printable characters"),
    ('servery: 1\nregion: "\\ud800"', 2, 9, "region", r"'\ud800'", "text of"),
    ("servery: 1\nregion: !place here", 2, 9, "region", "a value tagged !place", "write text"),
    ("servery: 1\nserver: {http_port: 70000}", 2, 21, "server.http_port", "70000", "from 0 to 65535"),
    ("servery: 1\nserver: {http_port: 80.0}", 2, 21, "server.http_port", "80.0", "a whole number"),
    ('servery: 1\nserver: {http_port: "80"}', 2, 21, "server.http_port", "the text '80'", "write 80 without quotes"),
    ("servery: 1\nserver: {queue_per_worker: 1e30}", 2, 28, "server.queue_per_worker", "1e30", "a whole number"),
    ("servery: 1\nserver: {queue_per_worker: 99999999999999999999}", 2, 28, "server.queue_per_worker", "9999", "whole"),
    ("servery: 1\nserver: {drain: {grace_s: .nan}}", 2, 27, "server.drain.grace_s", ".nan", "from 0 to 600"),
    ("servery: 1\nserver: {drain: {grace_s: .inf}}", 2, 27, "server.drain.grace_s", ".inf", "from 0 to 600"),
    ("servery: 1\nrecords: {durability: powr}", 2, 23, "records.durability", "'powr'", "did you mean `power`?"),
    ("servery: 1\nrecords: 7", 2, 10, "records", "can't be the number 7", "`durability`"),
    ("servery: 1\n<<: {region: x}", 2, 1, "", "merge keys", "write the keys out"),
    ("servery: 1\n[a, b]: x", 2, 1, "", "a key must be text", "before the colon"),
]


@pytest.mark.parametrize(("text", "line", "column", "where", "message", "fix"), FAULTS)
def test_a_fault_is_told_with_its_place_and_its_fix(
    tmp_path: Path, text: str, line: int, column: int, where: str, message: str, fix: str
) -> None:
    declared = of(tmp_path, text)
    assert declared.manifest is None
    assert [(p.line, p.column, p.where) for p in declared.problems] == [(line, column, where)]
    assert message in declared.problems[0].message
    assert fix in declared.problems[0].fix


TENANT = "servery: 1\ntenants: {acme: {keys: [{id: k1, sha256: "


@pytest.mark.parametrize("value", ["abc", "1" * 64, "1" * 30 + "e" + "1" * 33, '"' + "G" * 64 + '"'])
def test_a_hash_must_be_64_hex_digits_as_text(tmp_path: Path, value: str) -> None:
    (problem,) = of(tmp_path, f"{TENANT}{value}}}]}}}}").problems
    assert problem.where == "tenants.acme.keys[0].sha256"
    assert ("quotes" if value[0] == "1" else "64 hex digits") in problem.fix


TWENTY = """\
servery: 1
models:
  one: {runtime: onx, artifact: a.onnx, threads: 0}
  two:
    runtime: onnx
    artefact: b.onnx
    confidence: {output: 5, form: max, softmax: yes}
    price: {usd_per_hour: "0.05"}
  3: {runtime: onnx, artifact: c.onnx}
  four: [1]
routes:
  r:
    tiers: []
    deadline_ms: -1
  q:
    tiers:
      - {name: x, model: one, share: [0.1, 2]}
      - name: y
    slo: {p50_ms: fast}
    slo: {}
tenants:
  acme: {keys: [{id: k1, sha256: abc}], limits: {requests_per_minute: 1.5}}
server: {http_port: 70000}
recrods: {}
region: 5
"""


def test_twenty_faults_give_twenty_problems_in_one_go(tmp_path: Path) -> None:
    declared = of(tmp_path, TWENTY)
    assert sorted((p.line, p.where) for p in declared.problems) == [
        (3, "models.one.runtime"),
        (3, "models.one.threads"),
        (6, "models.two.artefact"),
        (7, "models.two.confidence.form"),
        (7, "models.two.confidence.output"),
        (7, "models.two.confidence.softmax"),
        (8, "models.two.price.usd_per_hour"),
        (9, "models"),
        (10, "models.four"),
        (13, "routes.r.tiers"),
        (14, "routes.r.deadline_ms"),
        (17, "routes.q.tiers[0].share[1]"),
        (18, "routes.q.tiers[1]"),
        (19, "routes.q.slo.p50_ms"),
        (20, "routes.q.slo"),
        (22, "tenants.acme.keys[0].sha256"),
        (22, "tenants.acme.limits.requests_per_minute"),
        (23, "server.http_port"),
        (24, "recrods"),
        (25, "region"),
    ]
    assert len(declared.problems) == 20


def test_what_is_sound_of_a_broken_file_is_kept(tmp_path: Path) -> None:
    declared = of(tmp_path, GOOD + "  broken: {}\nrecords: {spool_mb: 0}\n")
    assert len(declared.problems) == 2
    assert declared.sound == of(tmp_path, GOOD).manifest


def test_the_digest_is_of_what_is_declared_not_of_how(tmp_path: Path) -> None:
    first = of(tmp_path, GOOD).digest
    assert of(tmp_path, "# a comment\nregion: local\n" + GOOD).digest == first
    assert of(tmp_path, GOOD + "server: {http_port: 8000, drain: {limit_s: 30}}\ntenants: {}\n").digest == first
    assert of(tmp_path, GOOD.replace("0.95", "0.950")).digest == first
    assert of(tmp_path, GOOD.replace("usd_per_hour: 1", "usd_per_hour: 1.0")).digest == first
    assert of(tmp_path, GOOD.replace("0.95", "0.951")).digest != first


def test_aliases_work_and_repeat_their_value(tmp_path: Path) -> None:
    declared = of(
        tmp_path,
        "servery: 1\nmodels:\n  a: &it {runtime: onnx, artifact: a.onnx}\n  b: *it\n  c: &it {runtime: onnx, artifact: c}\n",
    )
    assert declared.manifest is not None
    assert declared.manifest.models["a"] == declared.manifest.models["b"]


def _bomb() -> str:
    tier = "{name: t, model: m, share: [0, 1]}"
    tiers = "t: &t [" + ", ".join([f"&one {tier}"] + ["*one"] * 999) + "]\n"
    return (
        "servery: 1\n"
        + tiers.replace("t: ", "routes:\n  r0: {tiers: ", 1).rstrip()
        + "}\n"
        + "".join(f"  r{n}: {{tiers: *t}}\n" for n in range(1, 1000))
    )


UNREADABLE = {
    "empty": (b"", 1, "is empty"),
    "only a comment": (b"# nothing\n", 1, "is empty"),
    "not utf-8": (b"servery: 1\nregion: \xff\n", 2, "is not UTF-8 text"),
    "a tab": (b"servery: 1\nserver:\n\thttp_port: 1\n", 3, "is not YAML"),
    "an open bracket": (b"servery: [1\n", 2, "is not YAML"),
    "two documents": (b"servery: 1\n---\nservery: 1\n", 2, "is not YAML"),
    "an unknown alias": (b"servery: *one\n", 1, "undefined alias"),
    "an alias in itself": (b"servery: &a [*a]\n", 1, "that it is in itself"),
    "too deep": (b"[" * 5000, 1, "is not YAML"),
    "control characters": (b"servery: 1\n\x01\n", 2, "is not YAML"),
    "a character that does not exist": (b'servery: "\\UFFFFFFFF"\n', 0, "is not YAML"),
    "too large": (b"#" * (1 << 20) + b"\n", 0, "is larger than"),
    "an alias bomb": (_bomb().encode(), 1, "what aliases repeat"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_is_no_manifest_at_all_is_one_problem(tmp_path: Path, case: str) -> None:
    content, line, message = UNREADABLE[case]
    declared = of(tmp_path, content)
    (problem,) = [p for p in declared.problems if p.where == "file"]
    assert message in problem.message
    assert problem.line == line
    assert "\n" not in str(problem)


def test_a_missing_file_and_a_folder_are_problems(tmp_path: Path) -> None:
    assert "does not exist" in str(declare(tmp_path / "none.yaml").problems[0])
    assert "is a folder" in str(declare(tmp_path).problems[0])


_words = st.sampled_from(
    ["servery", "models", "routes", "tiers", "a", "name", "accept", "keys", "tenants", "server", "<<", "", "é", "share"]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(), inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.text(alphabet="servry: 1{}[]&*!|>-\n\t'\"#?,%@`.\\x"))
def test_junk_never_raises(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    declared = of(tmp_path_factory.getbasetemp(), text.encode("utf-8", "surrogatepass"))
    assert declared.manifest is not None or declared.problems


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(_words, _values, max_size=6))
def test_any_tree_is_a_manifest_or_problems(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    try:
        content = msgspec.json.encode({"servery": 1, **value})
    except UnicodeEncodeError:
        return
    declared = of(tmp_path_factory.getbasetemp(), content)
    assert (declared.manifest is None) == bool(declared.problems)
    for problem in declared.problems:
        assert problem.line >= 1
        assert str(problem).isprintable()


@given(steps=st.lists(st.text() | st.integers(0, 20), max_size=5))
def test_the_way_up_from_any_path_ends(steps: list[str | int]) -> None:
    where = at("", *steps)
    for _ in range(len(where) + 1):
        where = parent(where)
    assert where == ""


def test_every_type_of_the_manifest_can_be_read(tmp_path: Path) -> None:
    """A Manifest that gets a kind of field which the walk does not know must fail here, not at a user's."""
    whole = msgspec.json.decode(msgspec.json.encode(Manifest(1)), type=Manifest)
    assert of(tmp_path, msgspec.json.encode(whole)).manifest == whole
