"""How the two servers are started, and when they are up."""

from __future__ import annotations

import http.client
import socket
import sys
from pathlib import Path

from artifacts import Artifacts

SERVERY = str(Path(sys.executable).with_name("servery"))


def floor(made: Artifacts, port: int, grpc: bool = False) -> list[str]:
    """The command of the floor with both models, over HTTP or gRPC."""
    models = (f"{name}={path}" for name, path in made.models.items())
    return [sys.executable, str(Path(__file__).with_name("grpc_floor.py" if grpc else "floor.py")), str(port), *models]


def servery(manifest: Path, data: Path) -> list[str]:
    """The command of Servery; its port is in the manifest."""
    return [SERVERY, "up", str(manifest), "--data", str(data)]


def kind_of(command_line: str) -> str:
    """Which of Servery's processes, or the floor, has this command line."""
    marks = {"worker": "servery.wiring worker ", "shipper": "servery.wiring shipper ", "floor": "floor.py "}
    return next((kind for kind, mark in marks.items() if mark in command_line), "supervisor")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(port: int, path: str = "") -> bool:
    """Whether a server accepts connections, and answers `path` with 200 where one is given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.connect()
        if path:
            connection.request("GET", path)
            return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
    return True
