"""Every way in which a Request or an Attempt can be refused or fail: whose fault it is, and whether to try again."""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """Who has to act."""

    CALLER = "caller"
    PLATFORM = "platform"
    UPSTREAM = "upstream"


class Again(enum.Enum):
    """Whether the same ask may succeed, and where."""

    NO = "no"
    LATER = "later"
    ELSEWHERE = "elsewhere"


class Reason(enum.Enum):
    """One refusal or failure: (name on the wire and in Records, fault, again, meaning)."""

    INVALID_REQUEST = (
        "invalid_request",
        Fault.CALLER,
        Again.NO,
        "The request does not fit the protocol or the model's inputs.",
    )
    UNAUTHENTICATED = ("unauthenticated", Fault.CALLER, Again.NO, "No key was sent, or no tenant has it.")
    NOT_PERMITTED = ("not_permitted", Fault.CALLER, Again.NO, "The caller is known but may not do this.")
    NOT_FOUND = ("not_found", Fault.CALLER, Again.NO, "No route, model, version or path has this name.")
    NOT_OFFERED = (
        "not_offered",
        Fault.PLATFORM,
        Again.NO,
        "A part of the vendor's API that Servery doesn't have.",
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed",
        Fault.CALLER,
        Again.NO,
        "The path exists, but not with this HTTP method.",
    )
    TOO_LARGE = ("too_large", Fault.CALLER, Again.NO, "The body exceeds server.max_body_mb.")
    UNSUPPORTED_ENCODING = (
        "unsupported_encoding",
        Fault.CALLER,
        Again.NO,
        "The body has a Content-Encoding that is not understood.",
    )
    TOO_SLOW = ("too_slow", Fault.CALLER, Again.NO, "The request did not arrive within server.receive_limit_s.")
    RATE_LIMITED = (
        "rate_limited",
        Fault.CALLER,
        Again.LATER,
        "The limits of the tenant, the key, the route or the model are reached: requests_per_minute or concurrency_per_worker.",
    )
    BUDGET_SPENT = (
        "budget_spent",
        Fault.CALLER,
        Again.LATER,
        "A budget of the tenant, the key, the route or the model, in dollars or tokens, doesn't hold what the call may cost.",
    )
    NO_ROOM = ("no_room", Fault.PLATFORM, Again.LATER, "The worker, or the model's queue, is full.")
    WARMING = ("warming", Fault.PLATFORM, Again.LATER, "The model is loading or warming up.")
    SLEEPING = (
        "sleeping",
        Fault.PLATFORM,
        Again.LATER,
        "The model was unloaded to make room, and is being loaded again because of this request.",
    )
    MODEL_UNAVAILABLE = (
        "model_unavailable",
        Fault.PLATFORM,
        Again.ELSEWHERE,
        "The model could not be loaded, or was unloaded; /ready says why.",
    )
    DRAINING = ("draining", Fault.PLATFORM, Again.ELSEWHERE, "The worker is stopping and takes no new requests.")
    NO_CONTROLLER = (
        "no_controller",
        Fault.PLATFORM,
        Again.LATER,
        "The controller, which alone changes what is served, does not answer.",
    )
    NO_COUNTER = (
        "no_counter",
        Fault.PLATFORM,
        Again.LATER,
        "The counters of limits and budgets can't be reached, and counters.on_unavailable is refuse.",
    )
    CHANGE_REFUSED = (
        "change_refused",
        Fault.CALLER,
        Again.NO,
        "What is to be loaded can't be served; what was served before goes on.",
    )
    INVALID_MANIFEST = (
        "invalid_manifest",
        Fault.CALLER,
        Again.NO,
        "The manifest has problems; what was served goes on.",
    )
    CONFLICT = (
        "conflict",
        Fault.CALLER,
        Again.NO,
        "What is asked for doesn't fit what is so by now: another plan was shown, or a version is held.",
    )
    NO_STATE = (
        "no_state",
        Fault.PLATFORM,
        Again.LATER,
        "What is remembered of changes can't be read or written, so nothing is changed.",
    )
    RECORDS_FULL = ("records_full", Fault.PLATFORM, Again.LATER, "The spool is full and records.when_full is refuse.")
    DEADLINE_EXCEEDED = (
        "deadline_exceeded",
        Fault.PLATFORM,
        Again.LATER,
        "No answer was ready at the request's deadline.",
    )
    NO_CANDIDATE = ("no_candidate", Fault.PLATFORM, Again.NO, "No tier of the route may serve this caller (region).")
    MODEL_FAILED = ("model_failed", Fault.UPSTREAM, Again.ELSEWHERE, "The model raised an error while it ran.")
    WRONG_ANSWER = (
        "wrong_answer",
        Fault.UPSTREAM,
        Again.ELSEWHERE,
        "The model answered with missing outputs or a wrong number of rows.",
    )
    UPSTREAM_BUSY = (
        "upstream_busy",
        Fault.UPSTREAM,
        Again.LATER,
        "The language model's endpoint takes no more for now: its rate limit, or its load.",
    )
    UPSTREAM_CUT = (
        "upstream_cut",
        Fault.UPSTREAM,
        Again.ELSEWHERE,
        "The language model's endpoint can't be reached, or its answer ended early.",
    )
    UPSTREAM_SLOW = (
        "upstream_slow",
        Fault.UPSTREAM,
        Again.ELSEWHERE,
        "The language model's endpoint had said nothing within first_token_ms.",
    )
    NOT_CAPABLE = (
        "not_capable",
        Fault.CALLER,
        Again.NO,
        "No tier of the route can do what the prompt needs, or its context is too long for all of them.",
    )
    WORKER_LOST = ("worker_lost", Fault.PLATFORM, Again.LATER, "The worker died before the request ended.")
    BUG = ("bug", Fault.PLATFORM, Again.LATER, "An error of ours; it is logged with its traceback under the record id.")

    def __init__(self, word: str, fault: Fault, again: Again, meaning: str) -> None:
        self.word = word
        self.fault = fault
        self.again = again
        self.meaning = meaning


class Refusal(Exception):
    """A Request that ends without an answer.

    `message` is for the caller: what is wrong, where, and what to write instead. It never holds a secret or content.
    `retry_after_s` is given where trying again later makes sense.
    """

    def __init__(self, reason: Reason, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


def bare(refusal: Refusal) -> Refusal:
    """The same without the frames that it came through: they know whoever keeps it, and that is a cycle, which would be left
    to the garbage collector.
    """
    refusal.__traceback__ = refusal.__context__ = None
    return refusal


_OF_CALLERS = {
    reason.word for reason in Reason if reason.fault is Fault.CALLER and reason is not Reason.INVALID_REQUEST
} | {Reason.DRAINING.word}


def of_callers(word: str) -> bool:
    """Whether a Reason's word says that there was no answer by the doing of a caller, or of who stopped a worker, and not of
    who was asked. A prompt or tensor that a Version refused may well be its own doing.
    """
    return word in _OF_CALLERS
