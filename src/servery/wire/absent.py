"""What a Triton server has and this one hasn't, and what to use instead."""

from __future__ import annotations

TRACE = "every request leaves a Record, and `servery report` reads them; there are no trace settings"
LOGGING = "logs go to the server's stderr; there are no log settings"
SHARED_MEMORY = "tensors are sent with the request; there is no memory shared with callers"

BY_RPC = {"TraceSetting": TRACE, "LogSettings": LOGGING} | dict.fromkeys(
    (f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")),
    SHARED_MEMORY,
)
