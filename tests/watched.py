"""A server that is asked badly, and whose ledger is held against what it answered."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

import artifacts
from server import Reply, Server, split_replies, tensor

X = np.array([[1, 2], [3, 4]], np.float32)


class Watched(Server):
    """A Server that remembers what it answered, and holds its ledger against that when it has stopped."""

    def __init__(self, folder: Path, manifest: dict[str, Any], *arguments: str) -> None:
        super().__init__(folder, manifest, *arguments)
        self.ids: list[str] = []
        self.abandoned = 0

    def note(self, *replies: Reply) -> None:
        self.ids += [reply.headers["servery-record-id"] for reply in replies if "servery-record-id" in reply.headers]

    def ask(self, *args: Any, **kwargs: Any) -> Reply:
        reply = super().ask(*args, **kwargs)
        self.note(reply)
        return reply

    def refuse(self, raw: bytes, status: int, piece: str) -> Reply:
        """One error for these raw bytes, after which the server closes the connection."""
        replies = split_replies(self.raw(raw))
        self.note(*replies)
        assert len(replies) == 1, replies
        assert replies[0].status == status, replies
        assert piece in replies[0].error
        return replies[0]

    def check_unharmed(self) -> None:
        reply = self.infer("m", fine())
        assert reply.status == 200, reply
        assert reply.json["outputs"][0]["data"] == X.ravel().tolist()

    def check_ledger(self) -> None:
        """Every Request of a known caller left exactly one Record: those answered, and those whose caller left."""
        assert self.stop() == 0
        kept = self.records("SELECT lower(hex(id)), outcome, reason, route, request_id FROM records")
        outcomes = Counter(row[1] for row in kept)
        assert outcomes["abandoned"] == self.abandoned, [row[3:] for row in kept if row[1] == "abandoned"]
        answered = Counter(row[0] for row in kept if row[1] != "abandoned")
        unheard = answered - Counter(self.ids)
        assert answered == Counter(self.ids), [row for row in kept if row[0] in unheard]
        assert not [row for row in kept if row[2] == "bug"]
        assert "Traceback" not in self.written(), self.written()[-3000:]


@contextlib.contextmanager
def watched(folder: Path, *arguments: str) -> Generator[Watched]:
    """A server of small models whose ledger is checked at its end."""
    built = {
        "m": artifacts.identity(folder / "m.onnx", 2),
        "pair": artifacts.pair(folder / "pair.onnx"),
        "words": artifacts.texts(folder / "words.onnx"),
        "ints": artifacts.identity(folder / "ints.onnx", 1, TensorProto.INT64),
        "bools": artifacts.identity(folder / "bools.onnx", 1, TensorProto.BOOL),
        "any": artifacts.identity(folder / "any.onnx"),
        "slow": artifacts.slow(folder / "slow.onnx"),
    }
    models = {name: {"runtime": "onnx", "artifact": str(path)} for name, path in built.items()}
    routes = {"route": {"tiers": [{"name": "only", "model": "m"}]}}
    with Watched(folder, {"models": models, "routes": routes, "server": {"receive_limit_s": 1}}, *arguments) as running:
        yield running
        running.check_unharmed()
        running.check_ledger()


def fine(**more: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", "FP32", [2, 2], X.ravel().tolist())], **more}
