"""Write docs/manifest.md and docs/reasons.md from the types. `--check` only says whether they are current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import msgspec.inspect as mi

from servery.control.words import expected, optional, plain
from servery.terms.manifest import Manifest
from servery.terms.reasons import Reason
from servery.wire.status import GRPC_STATUS, HTTP_STATUS

FOLDER = Path(__file__).parent

EXAMPLE = """\
servery: 1
region: uae
models:
  digits-small:
    runtime: onnx
    artifact: models/digits-small.onnx
    confidence: {output: probabilities, from: max}
    prediction: {output: label}
    price: {usd_per_hour: 0.05}
  digits-large:
    runtime: onnx
    artifact: models/digits-large.onnx
    prediction: {output: label}
    price: {usd_per_hour: 0.40}
    threads: 2
routes:
  digits:
    policy: {kind: cascade}
    slo: {p95_ms: 50}
    deadline_ms: 2000
    ceiling: {mean_usd_per_million: 0.5}
    tiers:
      - {name: cheap, model: digits-small, accept: {confidence: 0.95, range: [0.85, 0.99]}, share: [0.6, 0.9]}
      - {name: premium, model: digits-large, share: [0.1, 0.4]}
tenants:
  acme:
    regions: [uae]
    limits: {requests_per_minute: 6000}
    keys:
      - id: k1
        sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
server: {host: 0.0.0.0, http_port: 8000}
"""

MANIFEST_HEAD = f"""\
# The manifest

One YAML file says what must hold. `servery check FILE` names everything that is wrong with it, with line, column and
what to write instead; `servery schema` prints its JSON Schema for editors. An unknown key is an error. Names under
`models`, `routes` and `tenants` are yours: 1 to 128 printable characters, no space at either end.

```yaml
{EXAMPLE}```

This page is written by `docs/generate.py` from `src/servery/terms/manifest.py`.
"""

REASONS_HEAD = """\
# Reasons

Every refusal and every failure has one Reason. Its word stands in the Record; its HTTP status or gRPC code is what the caller
sees.
*Who acts*: who has to change something. *Again*: `no`, the same ask fails again; `later`, it may work after a while
(429 and 503 carry `Retry-After`); `elsewhere`, another tier or another worker may answer it now.

This page is written by `docs/generate.py` from `src/servery/terms/reasons.py` and `src/servery/wire/status.py`.

| Reason | HTTP | gRPC | Who acts | Again | Meaning |
|---|---|---|---|---|---|
"""


def manifest_page() -> str:
    kind = mi.type_info(Manifest)
    assert isinstance(kind, mi.StructType)
    return MANIFEST_HEAD + "".join(_sections(kind, ""))


def reasons_page() -> str:
    rows = (
        f"| `{reason.word}` | {HTTP_STATUS[reason]} | {GRPC_STATUS[reason]} | {reason.fault.value} | {reason.again.value} "
        f"| {reason.meaning} |\n"
        for reason in Reason
    )
    return REASONS_HEAD + "".join(rows)


def _sections(kind: mi.StructType, path: str) -> Iterator[str]:
    """A section for this struct, then one for each struct inside it, depth first."""
    yield f"\n## {f'`{path}`' if path else 'The whole file'}\n\n{_first_paragraph(kind.cls)}\n\n"
    yield "| Key | What to write | Default | Meaning |\n|---|---|---|---|\n"
    inside: list[tuple[mi.StructType, str]] = []
    for field in kind.fields:
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        inner, description = plain(field.type)
        part, below = _part(inner, here)
        if part is not None:
            inside.append((part, below))
        what = f"see [`{below}`](#{_anchor(below)})" if part is not None else expected(field.type)
        meaning = description or (_first_paragraph(part.cls) if part is not None else "")
        yield f"| `{field.encode_name}` | {what} | {_default(field)} | {_cell(meaning)} |\n"
    for part, below in inside:
        yield from _sections(part, below)


def _part(kind: mi.Type, path: str) -> tuple[mi.StructType | None, str]:
    """The struct that is written under `path`, and how its path is written."""
    if isinstance(kind, mi.DictType):
        return _part(plain(kind.value_type)[0], f"{path}.NAME")
    if isinstance(kind, mi.VarTupleType):
        return _part(plain(kind.item_type)[0], f"{path}[]")
    return (kind, path) if isinstance(kind, mi.StructType) else (None, path)


def _default(field: mi.Field) -> str:
    if field.required:
        return "required"
    inner, _ = plain(field.type)
    value = cast(object, field.default)
    if isinstance(inner, mi.StructType):
        return "none" if optional(field.type) else "the defaults there"
    if value is None or value is msgspec.NODEFAULT or value == ():
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{msgspec.json.encode(value).decode()}`".replace('"', "")


def _first_paragraph(cls: Any) -> str:
    return str(cls.__doc__).partition("\n\n")[0].replace("\n", " ").strip()


def _cell(text: str) -> str:
    return (text[:1].upper() + text[1:]).rstrip(".").replace("|", r"\|")


def _anchor(path: str) -> str:
    return "".join(letter for letter in path.lower() if letter.isalnum() or letter in "-_")


def main() -> None:
    pages = {"manifest.md": manifest_page(), "reasons.md": reasons_page()}
    if sys.argv[1:] == ["--check"]:
        stale = [n for n, text in pages.items() if not (FOLDER / n).exists() or (FOLDER / n).read_text("utf-8") != text]
        if stale:
            sys.exit(f"not current: {', '.join(stale)}; run python docs/generate.py")
        return
    for name, text in pages.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
