"""A request whose body was never read leaves its Record too: its caller is known by then."""

from __future__ import annotations

from pathlib import Path

import artifacts
from server import Server, post, split_replies

URL = "/v2/models/%6d/infer"  # an escape that needs none: a path that has to be parsed


def test_what_ends_before_its_body_is_read_leaves_a_record(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "m.onnx")
    models = {"m": {"runtime": "onnx", "artifact": "m.onnx"}}
    manifest = {"servery": 1, "models": models, "server": {"receive_limit_s": 1, "max_body_mb": 1}}
    with Server(tmp_path, manifest) as server:
        large = f"POST {URL} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n".encode()
        [reply] = split_replies(server.raw(large))
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        ids = [reply.headers["servery-record-id"]]

        reply = server.ask("POST", URL, b"{}", {"content-encoding": "br"})
        assert reply.status == 415
        ids.append(reply.headers["servery-record-id"])

        [reply] = split_replies(server.raw(post(URL, b"x" * 2000)[:-1]))
        assert reply.status == 408

        rows = server.await_records("SELECT lower(hex(id)), outcome, reason FROM records ORDER BY at_ns", 3)
        assert [row[0] for row in rows[:2]] == ids
        assert [row[1:] for row in rows] == [
            ("refused", "too_large"),
            ("refused", "unsupported_encoding"),
            ("abandoned", ""),
        ]
