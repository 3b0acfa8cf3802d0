"""A `servery up` whose admin API is open, its keys, and plain ways to ask it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import artifacts
from living import Living, servery, until
from server import Reply

PREFIX = "/servery/admin/v1"
KEYS = {name: f"sv_{name}-{'x' * 36}" for name in ("operator", "viewer", "expired", "tenant")}
DESIGN = {
    "why": "Two may be better than one.",
    "route": "s",
    "unit": {"header": "x-user"},
    "arms": [{"name": "control", "share": 0.5}, {"name": "other", "share": 0.5, "models": {"only": "two"}}],
    "primary": {"metric": "errors", "margin": 0.1},
    "units": 1000,
}
SURE = {1: [0.9, 0.1], 2: [0.2, 0.8]}


def digest(name: str) -> str:
    return hashlib.sha256(KEYS[name].encode()).hexdigest()


def keys(*names: str) -> list[dict[str, str]]:
    """What the manifest says of these keys."""
    more = {"operator": {"role": "operator"}, "expired": {"role": "operator", "expires": "2020-02-29"}}
    return [{"id": f"the-{name}", "sha256": digest(name), **more.get(name, {})} for name in names]


def declared(number: int = 1, **admin: Any) -> dict[str, Any]:
    """Version `number` of a model that is brought out with a canary."""
    canary = {
        "kind": "canary",
        "steps": [{"share": 0.5, "min_requests": 1000, "bake_s": 1}],
        "guards": [{"metric": "errors", "margin": 0.1}],
    }
    model = {"runtime": "onnx", "artifact": "m", "versions": {"only": [number]}, "rollout": canary}
    watched = {"runtime": "onnx", "artifact": "m/1/model.onnx", "drift": {"features": ["x.0"]}}
    opened = {"port": 0, "keys": keys("operator", "viewer", "expired"), **admin}
    others = {name: {"runtime": "onnx", "artifact": f"m/{at}/model.onnx"} for at, name in enumerate(("one", "two"), 1)}
    return {
        "models": {"m": model, "n": watched, **others},
        "routes": {name: {"tiers": [{"name": "only", "model": model}]} for name, model in (("r", "m"), ("s", "one"))},
        "experiments": {"try": DESIGN},
        "tenants": {"acme": {"keys": [{"id": "k1", "sha256": digest("tenant")}], "content": {"keep_days": 30}}},
        "admin": opened if admin.get("keys", True) else None,
    }


class Administered(Living):
    """A Living whose admin API is asked over TCP."""

    def __init__(self, folder: Path, **admin: Any) -> None:
        for number, sure in SURE.items():
            artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
        super().__init__(folder, declared(**admin))

    def write(self, number: int = 1, **admin: Any) -> None:
        manifest = {"servery": 1, **declared(number, **admin), "server": {"in_process_ms": 60_000}}
        self.manifest.write_text(json.dumps(manifest))

    @property
    def opened(self) -> list[str]:
        """Every address that was printed, the last one last."""
        return [line.split()[-1] for line in self.log_lines("^admin API on ")]

    @property
    def url(self) -> str:
        return until(lambda: self.opened, said=self.written)[-1]

    def ask_admin(
        self,
        path: str,
        key: str = "operator",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
        method: str = "",
    ) -> Reply:
        """One request with the key of this name ("": none); a POST where there is a body."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        line = (
            http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
            if trust is None
            else http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=trust)
        )
        sent = {"authorization": f"Bearer {KEYS.get(key, key)}"} if key else {}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            line.request(method or ("GET" if body is None else "POST"), path, content, {**sent, **(headers or {})})
            reply = line.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            line.close()

    def command(
        self, *arguments: object, key: str = "operator", code: int = 0, server: str = "", **environment: str
    ) -> str:
        """What a command with `--server` prints, from a folder that has nothing to do with it."""
        apart = self.folder / "apart"
        apart.mkdir(exist_ok=True)
        env = {**os.environ, "SERVERY_KEY": KEYS.get(key, key), **environment}
        done: subprocess.CompletedProcess[str] = servery(
            *arguments, "--server", server or self.url, cwd=apart, env=env, limit_s=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr
