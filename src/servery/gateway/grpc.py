"""The gRPC face: messages in, Asks for the pipeline, the Open Inference Protocol's messages out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from servery import __version__
from servery.gateway.health import Health
from servery.gateway.pipeline import Pipeline, Reply, cut_short, find_entry
from servery.gateway.repository import Repository
from servery.gateway.rpc_ask import Fields, GrpcAsk, Pairs, key_of, of_refusal, trailing
from servery.host.eager import eagerly
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Caller
from servery.wire import absent, oip_grpc
from servery.wire.config import encode_config_grpc
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.repository import encode_index_grpc, encode_statistics_grpc
from servery.wire.status import GRPC_STATUS

log = logging.getLogger("servery.grpc")

SERVICE = "inference.GRPCInferenceService"
_END: Any = vars(grpc.aio)["EOF"]  # its types leave it out
_KEPT = 1024
_EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class Context(Protocol):
    """What a face needs of grpc.aio's context. `abort` raises."""

    def invocation_metadata(self) -> Iterable[tuple[str, str]] | None: ...
    def time_remaining(self) -> float | None: ...
    def set_trailing_metadata(self, trailing_metadata: Pairs) -> None: ...
    async def abort(self, code: Any, details: str, trailing_metadata: Pairs) -> NoReturn: ...
    async def read(self) -> Any: ...
    async def write(self, message: bytes) -> None: ...


Method = Callable[[bytes, Fields, Context], Awaitable[bytes | None]]


class GrpcFace:
    """The gRPC face of one Pipeline. Messages come and go as bytes, so that they are read under the Caller's name."""

    def __init__(self, pipeline: Pipeline, repository: Repository, unready: Callable[[], list[str]]) -> None:
        self._pipeline = pipeline
        self._repository = repository
        self._unready = unready
        self._health = Health(unready, (SERVICE,))
        self._running: set[asyncio.Task[Reply]] = set()
        self._idle: set[asyncio.Task[Any]] = set()  # streams that wait for their caller
        self._ending = False
        self._kept: dict[tuple[str, str, str, str], Pairs] = {}

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        unary: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **{name: _absent(name) for name in absent.BY_RPC},
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_guarded(method)) for name, method in unary.items()
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_guarded(self._model_stream_infer))
        health: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(_guarded(self._health.check)),
            "Watch": grpc.unary_stream_rpc_method_handler(_guarded(self._health.watch)),
        }
        return (
            grpc.method_handlers_generic_handler(SERVICE, methods),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )

    def end_idle(self) -> None:
        self._ending = True
        self._health.end()
        for task in self._idle:
            task.cancel()

    def cut(self) -> None:
        self.end_idle()
        for task in self._running:
            task.cancel()

    async def _server_live(self, _message: bytes, _fields: Fields, _context: Context) -> bytes:
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, _message: bytes, _fields: Fields, _context: Context) -> bytes:
        return pb.ServerReadyResponse(ready=not self._unready()).SerializeToString()

    async def _server_metadata(self, _message: bytes, fields: Fields, _context: Context) -> bytes:
        self._pipeline.identify(key_of(fields))
        return pb.ServerMetadataResponse(
            name="servery", version=__version__, extensions=_EXTENSIONS
        ).SerializeToString()

    async def _model_ready(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        self._pipeline.identify(key_of(fields))
        asked = _parse(pb.ModelReadyRequest, message)
        entry = find_entry(self._pipeline.table, asked.name, asked.version)
        return pb.ModelReadyResponse(ready=not entry.unready).SerializeToString()

    async def _model_metadata(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        self._pipeline.identify(key_of(fields))
        asked = _parse(pb.ModelMetadataRequest, message)
        entry = find_entry(self._pipeline.table, asked.name, asked.version)
        if entry.unready and not entry.signature.inputs:
            raise Refusal(entry.refusal, f"'{asked.name}' can't answer: {entry.unready}")
        return oip_grpc.encode_model_metadata(entry.name, entry.signature, entry.versions)

    async def _model_config(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        self._pipeline.identify(key_of(fields))
        asked = _parse(pb.ModelConfigRequest, message)
        return encode_config_grpc(self._repository.config(asked.name, asked.version))

    async def _model_statistics(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        caller = self._pipeline.identify(key_of(fields))
        asked = _parse(pb.ModelStatisticsRequest, message)
        return encode_statistics_grpc(await self._repository.statistics(caller, asked.name, asked.version))

    async def _repository_index(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        caller = self._pipeline.identify(key_of(fields))
        asked = _parse(pb.RepositoryIndexRequest, message)
        return encode_index_grpc(self._repository.index(caller, asked.ready))

    async def _load(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        caller = self._pipeline.identify(key_of(fields))
        asked = _parse(pb.RepositoryModelLoadRequest, message)
        await self._repository.load(caller, asked.model_name, asked.parameters.keys())
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def _unload(self, message: bytes, fields: Fields, _context: Context) -> bytes:
        caller = self._pipeline.identify(key_of(fields))
        asked = _parse(pb.RepositoryModelUnloadRequest, message)
        await self._repository.unload(caller, asked.model_name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    async def _model_infer(self, message: bytes, fields: Fields, context: Context) -> bytes:
        caller = self._pipeline.identify(key_of(fields))
        ask = GrpcAsk(message, fields, context.time_remaining())
        reply = await self._answer(caller, ask, context)
        record = ("servery-record-id", reply.record_id.hex())
        if reply.answer is None:
            return await _abort(context, reply.refusal or cut_short(), (record, *ask.echo))
        context.set_trailing_metadata((record, *self._answered_by(ask.called, reply.answer), *ask.echo))
        ask.response.parameters["servery-record-id"].string_param = record[1]  # clients hide the metadata
        return ask.response.SerializeToString()

    async def _model_stream_infer(self, _: object, fields: Fields, context: Context) -> None:
        """Each message is one Request; they are answered in order. An error is an answer, and doesn't end the stream."""
        self._pipeline.identify(key_of(fields))
        while (message := await self._next(context)) is not _END:
            caller = self._pipeline.identify(key_of(fields))
            ask = GrpcAsk(message, fields, context.time_remaining())
            reply = await self._answer(caller, ask, context)
            await context.write(self._in_band(ask, reply).SerializeToString())

    async def _next(self, context: Context) -> Any:
        """The caller's next message, or EOF. While this worker stops, nobody is waited for."""
        stopping = Refusal(Reason.DRAINING, "this worker is stopping; ask again on a new connection")
        if self._ending:
            raise stopping
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if self._ending:
                raise stopping from None
            raise
        finally:
            self._idle.discard(task)

    def _in_band(self, ask: GrpcAsk, reply: Reply) -> pb.ModelStreamInferResponse:
        """An answer in a stream: what the metadata of a single call say is in its parameters."""
        response = pb.ModelStreamInferResponse()
        said = [("servery-record-id", reply.record_id.hex())]
        if reply.answer is not None:
            response.infer_response.CopyFrom(ask.response)
            said += self._answered_by(ask.called, reply.answer)
        elif reply.refusal is not None:
            response.error_message = of_refusal(reply.refusal, ())[0]
            response.infer_response.id = ask.id
            said.append(("servery-reason", reply.refusal.reason.word))
        parameters = response.infer_response.parameters
        for name, value in said:
            parameters[name].string_param = value
        parameters["triton_final_response"].bool_param = True
        return response

    async def _answer(self, caller: Caller, ask: GrpcAsk, context: Context) -> Reply:
        """The Reply. A caller who cancels has left; one whose deadline passes gets no answer in time."""
        reply, task = eagerly(self._pipeline.answer(caller, ask))
        if task is None:
            assert reply is not None
            return reply
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            if remaining is None or remaining > 0:
                ask.leave()
            raise

    def _answered_by(self, called: str, answer: Answer) -> Pairs:
        """The metadata that say who answered; the same for most replies, so they are kept (within a bound)."""
        key = (called, answer.tiers, answer.models, answer.versions)
        said = self._kept.get(key)
        if said is None:
            names = ("servery-route", "servery-tier", "servery-model", "servery-version")
            said = trailing(zip(names, key, strict=True))
            if len(self._kept) < _KEPT:
                self._kept[key] = said
        return (*said, ("servery-degraded", answer.degraded)) if answer.degraded else said


def _guarded(method: Callable[[Any, Fields, Context], Awaitable[bytes | None]]) -> Any:
    """A handler for grpc.aio: Refusals become codes, and what goes wrong here is ours and is logged."""

    async def call(message: Any, context: Context) -> bytes | None:
        fields = dict(context.invocation_metadata() or ())
        try:
            return await method(message, fields, context)
        except Refusal as refusal:
            return await _abort(context, refusal, ())
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("a bug of ours in the gRPC face")
            return await _abort(context, Refusal(Reason.BUG, "an error of ours; the log has it"), ())

    return call


async def _abort(context: Context, refusal: Refusal, more: Pairs) -> NoReturn:
    await context.abort(getattr(grpc.StatusCode, GRPC_STATUS[refusal.reason]), *of_refusal(refusal, more))


def _absent(name: str) -> Method:
    async def refuse(_message: bytes, _fields: Fields, _context: Context) -> bytes:
        raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{name} is not offered: {absent.BY_RPC[name]}")

    return refuse


def _parse(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise Refusal(
            Reason.INVALID_REQUEST, f"this is not a message of the protocol: it can't be read as {name}"
        ) from None
