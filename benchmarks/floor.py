"""The floor: the least that a Python process can do to answer an Open Inference Protocol request with an ONNX model.

A raw ASGI app under uvicorn with uvloop and httptools; msgspec typed both ways; onnxruntime inline on the event loop.
No key, no limits, no deadline, no validation beyond the types, no Record. What Servery costs is measured against it.

    python benchmarks/floor.py PORT NAME=MODEL.onnx [NAME=MODEL.onnx ...]
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bare_server import serve

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Array = NDArray[Any]

HEADER_LENGTH = b"inference-header-content-length"
DTYPES = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "INT64": np.dtype("<i8")}
DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64"}


class Binary(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Where an input's bytes are; absent for JSON data."""

    binary_data_size: int | None = None


class InputTensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] = []
    parameters: Binary = Binary()


class Asked(msgspec.Struct, gc=False):
    """A request's JSON."""

    inputs: list[InputTensor]


class OutputTensor(msgspec.Struct, omit_defaults=True, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: Binary | None = None


class Answer(msgspec.Struct, gc=False):
    """A reply's JSON."""

    model_name: str
    outputs: list[OutputTensor]


class Predictor:
    """One model: a session with one thread that never spins, as Servery's."""

    def __init__(self, name: str, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = name
        self._run = session.run
        self._outputs = [output.name for output in session.get_outputs()]
        self._datatypes = [DATATYPES[output.type] for output in session.get_outputs()]

    def predict(self, feed: dict[str, Array]) -> list[tuple[str, str, Array]]:
        """Name, datatype and values of every output, in the artifact's order."""
        arrays = cast("list[Array]", self._run(self._outputs, feed))
        return list(zip(self._outputs, self._datatypes, arrays, strict=True))


class Floor:
    """The ASGI app: POST /v2/models/NAME/infer with JSON, or with binary tensors both ways."""

    def __init__(self, predictors: list[Predictor]) -> None:
        self._by_path = {f"/v2/models/{predictor.name}/infer": predictor for predictor in predictors}
        self._decode = msgspec.json.Decoder(Asked).decode
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        predictor = self._by_path[scope["path"]]
        message = await receive()
        body: bytes = message["body"]
        if message["more_body"]:
            parts = [body]
            while message["more_body"]:
                message = await receive()
                parts.append(message["body"])
            body = b"".join(parts)
        for name, value in scope["headers"]:
            if name == HEADER_LENGTH:
                await self._binary(predictor, body, int(value), send)
                return
        await self._json(predictor, body, send)

    async def _json(self, predictor: Predictor, body: bytes, send: Send) -> None:
        feed = {
            tensor.name: np.array(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor in self._decode(body).inputs
        }
        outputs = [
            OutputTensor(name, datatype, array.shape, array.ravel().tolist())
            for name, datatype, array in predictor.predict(feed)
        ]
        reply = self._encode(Answer(predictor.name, outputs))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _binary(self, predictor: Predictor, body: bytes, header_length: int, send: Send) -> None:
        """Inputs are views of the body and outputs are written from their arrays: no copy of our own."""
        feed: dict[str, Array] = {}
        at = header_length
        for tensor in self._decode(memoryview(body)[:header_length]).inputs:
            size = tensor.parameters.binary_data_size or 0
            dtype = DTYPES[tensor.datatype]
            feed[tensor.name] = np.frombuffer(body, dtype, size // dtype.itemsize, at).reshape(tensor.shape)
            at += size
        answered = predictor.predict(feed)
        outputs = [
            OutputTensor(name, datatype, array.shape, None, Binary(array.nbytes)) for name, datatype, array in answered
        ]
        reply = self._encode(Answer(predictor.name, outputs))
        total = len(reply) + sum(array.nbytes for _, _, array in answered)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % total),
            (HEADER_LENGTH, b"%d" % len(reply)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        *first, last = (reply, *(array.ravel().data.cast("B") for _, _, array in answered))
        for part in first:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last})


def main(arguments: list[str]) -> None:
    port, *models = arguments
    serve(Floor([Predictor(*model.split("=", 1)) for model in models]), port)


if __name__ == "__main__":
    main(sys.argv[1:])
