"""Ray Serve: one replica behind its proxy, in a Ray of its own on loopback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import ray
from linear import Linear
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=200, ray_actor_options={"num_cpus": 0})
class Rows:
    def __init__(self) -> None:
        self._model = Linear()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return self._model.answer(await request.json())


if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200_000_000,
        log_to_driver=False,
        _temp_dir=sys.argv[1],
        runtime_env={"env_vars": {"PEER_MODEL": os.environ["PEER_MODEL"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])}, proxy_location="HeadOnly")
    serve.run(Rows.bind(), route_prefix="/v2/models/rows/infer")
    ended.wait()
    ray.shutdown()
