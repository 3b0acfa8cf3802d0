"""Content: what was asked and answered, where a tenant's policy says that it is kept. It lies apart from Records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from servery.terms.declared import Declared, Name

TENSORS = "infer"  # the form of Content whose request was no text


class ContentPolicy(Declared, frozen=True):
    """What is kept of requests and answers: encrypted, apart from Records, for a time. Without it nothing is."""

    keep_days: Annotated[int, Meta(ge=1, le=3_650, description="days after which it is erased")]
    routes: Annotated[
        tuple[Name, ...],
        Meta(max_length=1_024, description="names that callers ask whose Content is kept; default: all"),
    ] = ()
    sample: Annotated[float, Meta(gt=0, le=1, description="the share of requests whose Content is kept")] = 1


class ContentKey(Declared, frozen=True):
    """Where the keys are found that Content is encrypted with. They are never written here."""

    env: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            max_length=128,
            description="the environment variable that holds them: 32 random bytes each in base64, the newest first",
        ),
    ]


class Content(msgspec.Struct, frozen=True, array_like=True):
    """What was asked and answered, in JSON, in the words of the API that was asked.

    `form` is the value of a Form, or TENSORS. `answered` is what the caller was sent: the answer in one part, or a stream's parts as
    far as they went; none where there was no answer. `cut`: more was said than is kept.
    """

    form: str
    asked: bytes
    answered: tuple[bytes, ...]
    cut: bool = False


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Content on its way to its place. `make` gives it, off the event loop; `size` is about what it holds, in bytes."""

    record_id: bytes
    tenant: str
    region: str  # where it will rest
    expires_ns: int
    size: int
    make: Callable[[], Content]


class Sealed(msgspec.Struct, frozen=True, array_like=True, tag="sealed"):
    """Content that only who has the key can read: `box` holds it, encrypted with the key `key_id`."""

    record_id: bytes
    tenant: str
    region: str
    expires_ns: int
    key_id: str
    box: bytes


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag="dropped"):
    """How often a worker has dropped a tenant's Content, and why, since its run began; `at_ns` is the last time."""

    run: str
    tenant: str
    why: str
    count: int
    at_ns: int


ContentLine = Sealed | Dropped


class Erasure(msgspec.Struct, frozen=True):
    """What is to be erased: Content of requests that began before `before_ns`, of one tenant or Record where that is said."""

    before_ns: int
    tenant: str = ""
    record_id: bytes = b""
