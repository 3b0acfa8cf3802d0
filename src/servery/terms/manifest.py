"""The Manifest: what is declared, as frozen values. Descriptions here become the JSON Schema and docs/manifest.md."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from servery.terms.admin import Admin
from servery.terms.content import ContentPolicy
from servery.terms.declared import Count, Credentials, Declared, Name, Positive
from servery.terms.drift import DriftPolicy
from servery.terms.experiments import Design
from servery.terms.limits import Counters, Limits
from servery.terms.money import from_usd
from servery.terms.rollouts import RolloutPolicy
from servery.terms.routes import Route
from servery.terms.server import Records, Server
from servery.terms.text import TokenPrice

Usd = Annotated[float, Meta(ge=0, le=1_000_000)]
TokensUsd = Annotated[float, Meta(ge=0, le=10_000)]  # for a million


class Price(Declared, frozen=True):
    """What a Model costs. Busy time is charged to rows, the rest is booked as idle: both add up to the bill."""

    usd_per_hour: Annotated[Usd, Meta(description="dollars for an hour of one running copy")] | None = None
    usd_per_1m_input: (
        Annotated[TokensUsd, Meta(description="language models: dollars for a million tokens read")] | None
    ) = None
    usd_per_1m_output: (
        Annotated[TokensUsd, Meta(description="language models: dollars for a million tokens written")] | None
    ) = None
    usd_per_1m_cached: (
        Annotated[TokensUsd, Meta(description="of tokens read from the vendor's cache; default: as any token read")]
        | None
    ) = None
    usd_per_1m_cache_write: (
        Annotated[TokensUsd, Meta(description="of tokens written to the vendor's cache; default: as any token read")]
        | None
    ) = None
    usd_per_1m_reasoning: (
        Annotated[TokensUsd, Meta(description="of tokens of its reasoning; default: as any token written")] | None
    ) = None

    @property
    def pico_per_hour(self) -> int:
        return from_usd(self.usd_per_hour or 0)

    @property
    def of_tokens(self) -> TokenPrice | None:
        """What a token costs; None where that isn't declared."""
        read, written = self.usd_per_1m_input, self.usd_per_1m_output
        if read is None and written is None:
            return None
        kinds = (self.usd_per_1m_cached, self.usd_per_1m_cache_write)
        cached, cache_write = (read if usd is None else usd for usd in kinds)
        reasoning = written if self.usd_per_1m_reasoning is None else self.usd_per_1m_reasoning
        return TokenPrice(*(from_usd((usd or 0) / 1e6) for usd in (read, written, cached, cache_write, reasoning)))


class Endpoint(Declared, frozen=True):
    """One of several addresses of a language model."""

    url: Annotated[str, Meta(max_length=2048, pattern=r"^https?://\S+$", description="where its API begins")]
    credentials: Annotated[Credentials | None, Meta(description="default: those of the model")] = None


class Canned(Declared, frozen=True):
    """An answer that costs nothing, for prompts that a pattern finds something in."""

    pattern: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="a regular expression of Python, searched for in the last message",
        ),
    ]
    reply: Annotated[str, Meta(min_length=1, max_length=65_536, description="what is answered then")]


class Confidence(Declared, frozen=True):
    """Where a Model says how sure it is of each row."""

    output: Annotated[
        Name, Meta(description="an output of shape [rows, classes]; [rows] or [rows, 1] with `from: max`")
    ]
    source: Annotated[
        Literal["max", "margin"],
        Meta(description="`max`: the largest value of the row; `margin`: the largest less the second largest"),
    ] = msgspec.field(name="from", default="max")
    softmax: Annotated[bool, Meta(description="apply a softmax first: the output holds logits")] = False


class Prediction(Declared, frozen=True):
    """Which output is kept in the Record, so that feedback can be compared with it."""

    output: Annotated[Name, Meta(description="an output with one element per row; at most 256 bytes of it are kept")]


class Numbered(Declared, frozen=True):
    """An artifact as a numbered Version of its Model."""

    number: Annotated[int, Meta(ge=1, le=2**63 - 1, description="what calls and replies name it by")]
    artifact: Annotated[str, Meta(min_length=1, description="path of the artifact, relative to the manifest")]


class Versions(Declared, frozen=True):
    """Which numbered Versions are served; the highest of them answers a call that names none."""

    latest: Annotated[Count, Meta(description="so many of the highest numbers; the default is 1")] | None = None
    only: Annotated[tuple[Count, ...], Meta(min_length=1, description="exactly these numbers")] | None = None
    all: Annotated[bool, Meta(description="every number that there is")] = False


class DeclaredTensor(Declared, frozen=True):
    """An input or output of a Model whose artifact doesn't say it itself."""

    name: Name
    datatype: Annotated[
        Literal[
            "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
            "FP64", "BYTES",
        ],
        Meta(description="a datatype of the Open Inference Protocol"),
    ]  # fmt: skip
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=-1, le=2**31 - 1)], ...],
        Meta(max_length=16, description="sizes, -1 for any; the first one counts rows. [] is a single value"),
    ]


class Batch(Declared, frozen=True):
    """How calls of a Model run together. A model batches only where the first dimension of its inputs is free."""

    max_rows: Annotated[
        int,
        Meta(ge=1, le=65_536, description="rows of several calls that may run as one batch; 1: each call by itself"),
    ] = 32
    max_wait_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=60_000,
            description="how long a batch that isn't full may be held while another one of the model runs",
        ),
    ] = 0


class Health(Declared, frozen=True):
    """How a Replica is watched. One that doesn't answer `threshold` times in a row is killed and replaced."""

    interval_s: Annotated[float, Meta(gt=0, le=600, description="time between two looks at its health endpoint")] = 2
    limit_s: Annotated[float, Meta(gt=0, le=600, description="how long one look waits for the answer")] = 2
    threshold: Annotated[Count, Meta(description="looks in a row without an answer, until it is replaced")] = 5


class Model(Declared, frozen=True):
    """A name that can answer."""

    runtime: Annotated[
        Literal["onnx", "python", "sklearn", "openai", "anthropic", "heuristic"],
        Meta(description="[what runs the artifact](models.md); or how [a language model](language-models.md) is asked"),
    ]
    artifact: Annotated[
        str,
        Meta(
            max_length=4_096,
            description="path of the artifact, relative to the manifest, or [a URL](models.md#artifacts-behind-a-url); or of a folder with numbered folders, each a Version",
        ),
    ] = ""
    keep: Annotated[
        bool,
        Meta(
            description="keep a copy of what is published, so that it can be loaded again though its file was overwritten; what comes from a URL always is"
        ),
    ] = False
    confidence: Confidence | None = None
    prediction: Prediction | None = None
    price: Price | None = None
    threads: Annotated[int, Meta(ge=1, le=256, description="threads that one call may use inside the runtime")] = 1
    queue: Annotated[
        Count,
        Meta(
            description="calls that may wait for this model in one worker, or in one of its Replicas; more are refused (503)"
        ),
    ] = 256
    isolation: Annotated[
        Literal["shared", "dedicated"],
        Meta(description="`dedicated`: in processes of its own (Replicas), never inside a worker"),
    ] = "shared"
    replicas: (
        Annotated[int, Meta(ge=1, le=256, description="copies of each version, each in a process of its own")] | None
    ) = None
    call_limit_s: Annotated[
        float, Meta(gt=0, le=86_400, description="a Replica whose model runs one call for longer is replaced")
    ] = 60
    memory_mb: (
        Annotated[
            int, Meta(ge=64, le=2**24, description="a Replica that takes more memory than this, in MiB, is replaced")
        ]
        | None
    ) = None
    health: Health = Health()
    region: Annotated[Name, Meta(description="where it runs; default: the manifest's region")] | None = None
    expose: Annotated[
        bool, Meta(description="callable by its own name, beside routes (always so when no tenants are declared)")
    ] = False
    artifacts: Annotated[tuple[Numbered, ...], Meta(description="Versions listed here, instead of `artifact`")] = ()
    versions: Versions = Versions()
    labels: Annotated[
        dict[Name, Count], Meta(description="names for numbers that are served, such as `stable: 3`")
    ] = {}
    batch: Batch = Batch()
    entry: Annotated[
        str,
        Meta(
            max_length=256,
            pattern=r"^(?!\d)\w+(\.(?!\d)\w+)*$",
            description="`python`: the class that answers; in a folder `module.Class`, of `model.py` where no module is named",
        ),
    ] = msgspec.field(name="class", default="")
    inputs: Annotated[
        tuple[DeclaredTensor, ...], Meta(max_length=256, description="`python`, `sklearn`: what a call takes, in order")
    ] = ()
    outputs: Annotated[
        tuple[DeclaredTensor, ...], Meta(max_length=256, description="`python`, `sklearn`: what a call gives, in order")
    ] = ()
    trusted: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(
            max_length=256,
            description="`sklearn`: types that may be in the file, beside those that skops knows as harmless",
        ),
    ] = ()
    device: Annotated[
        str,
        Meta(
            pattern=r"^(cpu|cuda(:(0|[1-9]\d{0,2}))?)$",
            description="`onnx`: what it runs on: `cpu`, `cuda`, or one of several as `cuda:1`; never on another than this",
        ),
    ] = "cpu"
    endpoint: Annotated[
        str,
        Meta(
            max_length=2048,
            pattern=r"^(https?://\S+)?$",
            description="`openai`, `anthropic`: where its API begins, such as `https://api.openai.com/v1`",
        ),
    ] = ""
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Meta(
            max_length=64,
            description="`openai`, `anthropic`: several, instead of `endpoint`; the less loaded of two drawn ones is asked",
        ),
    ] = ()
    serves: Annotated[
        str,
        Meta(
            max_length=256,
            description="`openai`, `anthropic`: what the endpoint calls the model; default: its name here",
        ),
    ] = ""
    credentials: Credentials | None = None
    context_window: (
        Annotated[
            Count, Meta(description="`openai`, `anthropic`: tokens that a prompt and its answer may have together")
        ]
        | None
    ) = None
    lacks: Annotated[
        tuple[Literal["tools", "images", "json_schema", "logprobs"], ...],
        Meta(description="`openai`, `anthropic`: what it can't do; a prompt that needs it goes to another tier"),
    ] = ()
    offers: Annotated[
        tuple[Literal["responses", "moderations"], ...],
        Meta(description="`openai`: parts of the API that not every endpoint has, and that are passed on as they are"),
    ] = ()
    drop_unsupported: Annotated[
        bool,
        Meta(
            description="`openai`, `anthropic`: a field of a prompt in the other API that can't be kept is left out, instead of refused"
        ),
    ] = False
    limits: Annotated[
        Limits, Meta(description="what all routes together may use of it; where it is over one, other tiers are asked")
    ] = Limits()
    first_token_ms: (
        Annotated[
            Positive, Meta(description="`openai`, `anthropic`: a stream that has said nothing by then has failed")
        ]
        | None
    ) = None
    rollout: Annotated[RolloutPolicy, Meta(description="[how new versions are brought out](rollouts.md)")] = (
        RolloutPolicy()
    )
    drift: Annotated[
        DriftPolicy | None, Meta(description="[what is watched for drift](drift.md); default: nothing")
    ] = None
    replies: Annotated[
        tuple[Canned, ...], Meta(max_length=256, description="`heuristic`: tried in order; the first that fits answers")
    ] = ()


class Key(Declared, frozen=True):
    """One API key of a tenant; `servery key new` prints these lines."""

    id: Annotated[Name, Meta(description="what Records call it; each key of a tenant has its own")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, as 64 hex digits")]
    role: Annotated[
        Literal["caller", "operator"],
        Meta(description="`caller`: may ask; `operator`: may also load and unload models"),
    ] = "caller"
    limits: Annotated[Limits, Meta(description="what this key may use, within what its tenant may")] = Limits()


class Subscription(Declared, frozen=True):
    """What tenants of one subscription get."""

    priority: Annotated[
        int, Meta(ge=-1_000, le=1_000, description="calls of a larger one run first; added to that of the tier")
    ] = 0


class Tenant(Declared, frozen=True):
    """Who may ask."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1)]
    subscription: Annotated[Name, Meta(description="what the tenant pays for, in a word of yours")] = "standard"
    limits: Limits = Limits()
    regions: Annotated[tuple[Name, ...], Meta(description="regions its requests may flow to; empty: any")] = ()
    isolation: Annotated[
        Literal["shared", "dedicated"],
        Meta(description="`dedicated`: its rows never run in one batch with those of another tenant"),
    ] = "shared"
    content: ContentPolicy | None = None


class Manifest(Declared, frozen=True):
    """What is declared, as a whole."""

    servery: Annotated[Literal[1], Meta(description="version of the manifest's format")]
    models: dict[Name, Model] = {}
    routes: dict[Name, Route] = {}
    experiments: Annotated[
        dict[Name, Design], Meta(description="[arms of a route that are compared](experiments.md)")
    ] = {}
    tenants: dict[Name, Tenant] = {}
    server: Server = Server()
    records: Records = Records()
    counters: Counters = Counters()
    region: Annotated[Name, Meta(description="where this Servery runs and keeps its Records")] = "local"
    subscriptions: Annotated[
        dict[Name, Subscription], Meta(description="what tenants name as `subscription`; the priority of others is 0")
    ] = {}
    content: Annotated[
        ContentPolicy | None, Meta(description="what is kept of requests and answers where no tenants are declared")
    ] = None
    admin: Admin | None = None
