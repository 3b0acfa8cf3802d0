"""A port that is kept for a server which binds it itself, in another process."""

from __future__ import annotations

import socket


def hold(host: str, port: int) -> socket.socket:
    """A bound socket that doesn't listen: it keeps the port for sockets of ours that share it (SO_REUSEPORT).

    OSError says what is in the way. Two that share a port would each get some of the connections, so it is looked at
    first whether somebody else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def address_of(held: socket.socket) -> str:
    """`127.0.0.1:8001` or `[::1]:8001`."""
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
