"""The status of every Reason: one table per protocol."""

from __future__ import annotations

from servery.terms.reasons import Reason

HTTP_STATUS: dict[Reason, int] = {
    Reason.INVALID_REQUEST: 400,
    Reason.UNAUTHENTICATED: 401,
    Reason.NOT_PERMITTED: 403,
    Reason.NOT_FOUND: 404,
    Reason.NOT_OFFERED: 501,
    Reason.METHOD_NOT_ALLOWED: 405,
    Reason.TOO_SLOW: 408,
    Reason.TOO_LARGE: 413,
    Reason.UNSUPPORTED_ENCODING: 415,
    Reason.RATE_LIMITED: 429,
    Reason.BUDGET_SPENT: 429,
    Reason.BUG: 500,
    Reason.MODEL_FAILED: 502,
    Reason.WRONG_ANSWER: 502,
    Reason.UPSTREAM_CUT: 502,
    Reason.UPSTREAM_SLOW: 502,
    Reason.UPSTREAM_BUSY: 502,
    Reason.NOT_CAPABLE: 400,
    Reason.NO_ROOM: 503,
    Reason.WARMING: 503,
    Reason.SLEEPING: 503,
    Reason.MODEL_UNAVAILABLE: 503,
    Reason.NO_CONTROLLER: 503,
    Reason.CHANGE_REFUSED: 400,
    Reason.INVALID_MANIFEST: 422,
    Reason.CONFLICT: 409,
    Reason.NO_STATE: 503,
    Reason.DRAINING: 503,
    Reason.RECORDS_FULL: 503,
    Reason.WORKER_LOST: 503,
    Reason.NO_CANDIDATE: 403,
    Reason.DEADLINE_EXCEEDED: 504,
}

# Seconds to wait where the refusal itself knows no better; both 429 and 503 always carry Retry-After.
RETRY_AFTER_S: dict[int, float] = {429: 1.0, 503: 1.0}

# Codes of gRPC by name. INTERNAL is our bug only; gRPC has no code for an upstream that failed, so it is UNKNOWN.
GRPC_STATUS: dict[Reason, str] = {
    Reason.INVALID_REQUEST: "INVALID_ARGUMENT",
    Reason.UNAUTHENTICATED: "UNAUTHENTICATED",
    Reason.NOT_PERMITTED: "PERMISSION_DENIED",
    Reason.NOT_FOUND: "NOT_FOUND",
    Reason.NOT_OFFERED: "UNIMPLEMENTED",
    Reason.METHOD_NOT_ALLOWED: "UNIMPLEMENTED",
    Reason.TOO_SLOW: "DEADLINE_EXCEEDED",
    Reason.TOO_LARGE: "RESOURCE_EXHAUSTED",
    Reason.UNSUPPORTED_ENCODING: "UNIMPLEMENTED",
    Reason.RATE_LIMITED: "RESOURCE_EXHAUSTED",
    Reason.BUDGET_SPENT: "RESOURCE_EXHAUSTED",
    Reason.BUG: "INTERNAL",
    Reason.MODEL_FAILED: "UNKNOWN",
    Reason.WRONG_ANSWER: "UNKNOWN",
    Reason.UPSTREAM_CUT: "UNKNOWN",
    Reason.UPSTREAM_SLOW: "UNKNOWN",
    Reason.UPSTREAM_BUSY: "UNKNOWN",
    Reason.NOT_CAPABLE: "INVALID_ARGUMENT",
    Reason.NO_ROOM: "UNAVAILABLE",
    Reason.WARMING: "UNAVAILABLE",
    Reason.SLEEPING: "UNAVAILABLE",
    Reason.MODEL_UNAVAILABLE: "UNAVAILABLE",
    Reason.NO_CONTROLLER: "UNAVAILABLE",
    Reason.CHANGE_REFUSED: "INVALID_ARGUMENT",
    Reason.INVALID_MANIFEST: "INVALID_ARGUMENT",
    Reason.CONFLICT: "ABORTED",
    Reason.NO_STATE: "UNAVAILABLE",
    Reason.DRAINING: "UNAVAILABLE",
    Reason.RECORDS_FULL: "UNAVAILABLE",
    Reason.WORKER_LOST: "UNAVAILABLE",
    Reason.NO_CANDIDATE: "PERMISSION_DENIED",
    Reason.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
}
