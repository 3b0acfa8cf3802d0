"""Write docs/manifest.md, reasons.md and admin.md from the types. `--check` only says whether they are current."""

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
from servery.web.openapi import PREFIX
from servery.web.operations import OPERATIONS, Query
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

ADMIN_HEAD = """\
# The admin API

All that `servery plan`, `apply`, `history`, `audit`, `rollout`, `experiment`, `model`, `status`, `report`, `drift`, `route now`, `content count` and
`content erase` do, over HTTP. It is there twice: as a socket in the data folder, which only this machine's user can open (the commands use
it), and over TCP where the manifest declares `admin`. Without that part nobody reaches it over a network. What [Content](contents.md)
says is never shown over it, and what works on files of yours (`check`, `router`, `verifier`, `policy replay`) is no part of it.

## Open it

```sh
servery key new --admin operator --id ops
```

prints a key once, and lines for the manifest that hold only its hash:

```yaml
admin:
  keys:
    - id: ops
      sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
      role: operator
      expires: "2027-01-31"
```

`servery apply` opens the door, and `servery up` prints where it is: `admin API on http://127.0.0.1:8002`. A key that is taken out of the
manifest is refused as soon as that is applied; without `admin` the door is shut. A `viewer` may look: also at old manifests, which hold no
secrets but the hashes of keys. An `operator` may also change what is served, and has to say why. The audit calls either `key:ID`.

Only loopback is served without TLS. For other machines write `host` and `tls`, or put a proxy that ends TLS before it:

```yaml
admin:
  host: 0.0.0.0
  names: [servery.example]
  tls: {cert: tls/cert.pem, key: tls/key.pem, client_ca: tls/operators.pem}
  keys: [...]
```

The files are read again when they change. With `client_ca` only a caller whose certificate one of these authorities signed is heard at all.

## Ask it

Every command that has `--server` works from anywhere:

```sh
export SERVERY_KEY=sv_...
servery status --server http://127.0.0.1:8002
servery plan --server http://127.0.0.1:8002
servery apply --server http://127.0.0.1:8002 --yes --reason "the model of May"
servery audit verify --server http://127.0.0.1:8002
```

A manifest isn't sent: the one that is served is read again where it lies. Commands trust the authorities that the system trusts, or those in the
file `SERVERY_CA`; `SERVERY_CLIENT_CERT` names a PEM file with a certificate and its key. They don't send a key over plain HTTP to another machine.

The same with curl, which gets the key where `ps` doesn't show it:

```sh
api=http://127.0.0.1:8002PREFIX
ask() { printf 'header = "Authorization: Bearer %s"\\n' "$SERVERY_KEY" | curl -sS -K - "$@"; echo; }
ask $api/status
ask $api/plan -d '{}'
ask $api/apply -d '{"reason": "the model of May"}'
ask "$api/audit?most=10"
ask $api/openapi.json -o openapi.json
```

`openapi.json` describes all of it in OpenAPI 3.1, for clients that are generated.

## What it answers

JSON. An error is `{"error": what is wrong and what to do, "reason": a word of [Reasons](reasons.md)}`, with `problems` where a manifest has some (422).

| Status | When |
|---|---|
| 401 | No key, a wrong one, one that has expired |
| 403 | A viewer who wants to change something; a Host that isn't in `names`; a page of another site (`Origin`, `Sec-Fetch-Site`) |
| 429 | 20 attempts from an address (of IPv6: a /64) in a minute had no valid key. A valid one is taken all the same |
| 400, 404, 409, 413, 422 | What is asked for can't be, and why |
| 503 | The state can't be used now |

There is no CORS: a web page can't ask it. Bodies are at most 1 MiB and have to arrive within 20 s; 256 connections are held at most. What is
refused is counted in the log once a minute, without what was sent.

## Everything that can be asked

Paths follow `PREFIX`. This page is written by `docs/generate.py` from `src/servery/web/operations.py`.

| Ask | Role | What it does |
|---|---|---|
"""


def admin_page() -> str:
    rows = (
        f"| `{one.method} {one.path.replace(':path', '')}`{_asked(one.query)} | {one.role} | {_cell(one.summary)} |\n"
        for one in OPERATIONS
    )
    return ADMIN_HEAD.replace("PREFIX", PREFIX) + "".join(rows)


def _asked(query: tuple[Query, ...]) -> str:
    return "".join(f", `{one.name}`: {one.meaning}" for one in query)


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
    pages = {"manifest.md": manifest_page(), "reasons.md": reasons_page(), "admin.md": admin_page()}
    if sys.argv[1:] == ["--check"]:
        stale = [n for n, text in pages.items() if not (FOLDER / n).exists() or (FOLDER / n).read_text("utf-8") != text]
        if stale:
            sys.exit(f"not current: {', '.join(stale)}; run python docs/generate.py")
        return
    for name, text in pages.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
