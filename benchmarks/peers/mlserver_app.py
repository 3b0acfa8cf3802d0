"""MLServer: a custom runtime in its own process (no pool of workers: one core), over REST and gRPC."""

from __future__ import annotations

import asyncio
import os

import numpy as np
from linear import Linear
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Rows(MLModel):
    async def load(self) -> bool:
        self._model = Linear()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = np.asarray(NumpyCodec.decode_input(payload.inputs[0]), np.float32)
        label, probabilities = self._model.predict(rows)
        outputs = [NumpyCodec.encode_output("label", label), NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=int(os.environ["PEER_PORT"]),
        grpc_port=int(os.environ["PEER_GRPC_PORT"]),
        parallel_workers=0,
        metrics_endpoint=None,
        debug=False,
        load_models_at_startup=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="rows", implementation=Rows)])


if __name__ == "__main__":
    asyncio.run(main())
