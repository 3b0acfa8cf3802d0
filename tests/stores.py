"""Places that artifacts are fetched from, each a real server on this machine: S3, as moto has it, and plain HTTP."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from living import until
from servery.cli.child import free_port

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "servery-tests", "AWS_SECRET_ACCESS_KEY": "a secret of tests", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip


class S3(msgspec.Struct, frozen=True):
    """A server that speaks S3, with one bucket."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to read from it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def put(self, name: str, content: bytes) -> str:
        """The URL of an object that says this from now on."""
        self._client().put_object(Bucket="models", Key=name, Body=content)
        return f"s3://models/{name}"

    def remove(self, name: str) -> None:
        self._client().delete_object(Bucket="models", Key=name)

    def make(self) -> None:
        self._client().create_bucket(Bucket="models")

    def _client(self) -> Any:
        import boto3

        return boto3.client(  # pyright: ignore[reportUnknownMemberType]
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )


@contextlib.contextmanager
def s3() -> Generator[S3]:
    store = S3(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(store.port))
        store.make()
        yield store
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def environment(**variables: str) -> Generator[None]:
    """These variables, and no others of a store."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Counts what is asked, and ends an answer early where the file's name asks for that."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "torn" in self.path:
            self.send_response(200)
            self.send_header("content-length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return


@contextlib.contextmanager
def web(folder: Path) -> Generator[tuple[str, list[str]]]:
    """The address of a server of these files, and all that is asked of it."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()
