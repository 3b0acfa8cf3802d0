"""An ASGI app under uvicorn with nothing beside it: what the bare servers of the benchmarks run on."""

from __future__ import annotations

from typing import Any, cast

import uvicorn


def serve(app: object, port: str) -> None:
    """Serve until a signal."""
    uvicorn.run(
        cast("Any", app),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )
