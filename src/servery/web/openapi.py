"""The description of the admin API in OpenAPI 3.1, made of its Operations: what can be asked is what is described."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from servery import __version__
from servery.web.bodies import Failure
from servery.web.operations import Operation

PREFIX = "/servery/admin/v1"
PATH = "/openapi.json"
_SCHEMAS = "#/components/schemas/{name}"
_STEP = re.compile(r"{(\w+)(:path)?}")

_TEXT = """\
All that `servery plan`, `apply`, `history`, `audit`, `rollout`, `report` and the other commands with `--server` do. A viewer's key may look, an operator's may change \
what is served, and says why. Times are nanoseconds since 1970, money is in dollars unless the name says otherwise."""


def describe(operations: Sequence[Operation]) -> bytes:
    """The document, as JSON."""
    kinds = dict.fromkeys(kind for one in operations for kind in (one.reply, one.body) if kind is not None)
    _, schemas = msgspec.json.schema_components([*kinds, Failure], ref_template=_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(_STEP.sub(r"{\1}", one.path), {})[one.method.lower()] = _operation(one)
    paths[PATH] = {"get": _own()}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Servery's admin API",
            "version": __version__,
            "description": _TEXT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "failure": {
                    "description": "what is wrong, and what to do instead",
                    "content": _json({"$ref": _SCHEMAS.format(name="Failure")}),
                }
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a key of `admin.keys`; over the data folder's own socket none is needed",
                }
            },
        },
    }
    return msgspec.json.encode(document)


def _operation(one: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": f"For a key with the role `{one.role}`{' or `operator`' if one.role == 'viewer' else ''}.",
        "x-servery-role": one.role,
        "parameters": [*_steps(one.path), *_query(one)],
        "responses": {"200": _reply(_SCHEMAS.format(name=one.reply.__name__)), **_failures()},
    }
    if one.body is not None:
        described["requestBody"] = {"content": _json({"$ref": _SCHEMAS.format(name=one.body.__name__)})}
    return described


def _own() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "This description",
        "x-servery-role": "viewer",
        "responses": {
            "200": {"description": "this document", "content": _json({"type": "object"})},
            **_failures(),
        },
    }


def _steps(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        | ({"description": "may hold slashes"} if slashes else {})
        for name, slashes in _STEP.findall(path)
    ]


def _query(one: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": query.name,
            "in": "query",
            "description": query.meaning,
            "schema": {"type": "integer", "minimum": 0} if query.kind == "integer" else {"type": "string"},
        }
        for query in one.query
    ]


def _reply(schema: str) -> dict[str, Any]:
    return {"description": "done", "content": _json({"$ref": schema})}


def _failures() -> dict[str, Any]:
    failure = {"$ref": "#/components/responses/failure"}
    return {"4XX": failure, "5XX": failure}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
