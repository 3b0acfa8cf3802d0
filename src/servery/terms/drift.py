"""What is watched for drift: as the Manifest declares it, and what was counted of it.

Descriptions here become the JSON Schema and docs/manifest.md.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from servery.terms.declared import Declared, Positive

HOUR_NS = 3_600 * 10**9
DAY_HOURS = 24


class OnAlarm(Declared, frozen=True):
    """What is done once for each alarm, beside the line in the audit."""

    hold_rollouts: Annotated[
        bool, Meta(description="a rollout of this model that is under way is paused, with the alarm as its reason")
    ] = False
    webhook: Annotated[
        str,
        Meta(
            max_length=2048,
            pattern=r"^(https?://\S+)?$",
            description="an http or https address that the alarm is posted to as JSON",
        ),
    ] = ""
    command: Annotated[
        tuple[Annotated[str, Meta(max_length=4096)], ...],
        Meta(
            max_length=64,
            description="a program and its arguments, run without a shell in the manifest's folder; the alarm is its input, as JSON",
        ),
    ] = ()


class DriftPolicy(Declared, frozen=True):
    """What of a Model is compared with how it was, and how often it may be alarmed for nothing."""

    expected_days_between_false_alarms: Annotated[
        Positive, Meta(description="over all that is watched of this model: features, outputs, versions and tenants")
    ] = 90
    window_hours: Annotated[
        float,
        Meta(gt=0, le=8_784, description="what is compared at once; hold a whole cycle of your traffic, such as a day"),
    ] = 24
    reference_windows: Annotated[
        int,
        Meta(ge=1, le=60, description="the first windows of a version's traffic, which later ones are compared with"),
    ] = 7
    features: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(
            max_length=32,
            description="inputs of tensors: `age` (one value a row, or else its mean), or a column of one, such as `pixels.3`",
        ),
    ] = ()
    feedback: Annotated[
        str,
        Meta(
            max_length=128,
            description='the Feedback that tells quality: true or false, a number, or what should have been predicted; `""`: none',
        ),
    ] = "correct"
    on_alarm: OnAlarm = OnAlarm()

    @property
    def window_ns(self) -> int:
        return round(self.window_hours * HOUR_NS)

    @property
    def windows_between(self) -> float:
        """Windows between false alarms."""
        return self.expected_days_between_false_alarms * DAY_HOURS / self.window_hours


class Shift(msgspec.Struct, frozen=True):
    """One feature of one window beside the reference. `seen`: the distance that 80 of 100 such windows would have shown.

    `distance` is the greatest difference of cumulative shares, or for categories half the sum of the differences of shares.
    Without `p` too little was seen for a look.
    """

    version: str
    tenant: str
    feature: str
    reference: int  # values
    window: int
    distance: float = 0.0
    p: float | None = None
    seen: float = 1.0
    alarm: bool = False


class DriftLook(msgspec.Struct, frozen=True):
    """All that was seen of a Model in a window; times are ns since 1970. `waits`: why nothing could be compared yet."""

    model: str
    since_ns: int
    until_ns: int
    shifts: tuple[Shift, ...]
    waits: str = ""
    days_between: float = 0.0  # false alarms, as it is declared

    @property
    def alarmed(self) -> tuple[Shift, ...]:
        return tuple(one for one in self.shifts if one.alarm)


class Judged(msgspec.Struct, frozen=True):
    """One Feedback, when it came, with the Version that answered most of the Record's rows, and what it predicted for this one."""

    at_ns: int
    tenant: str
    version: str
    value: bool | float | str
    prediction: str | None


class Alarm(msgspec.Struct, frozen=True):
    """What is told of a DriftLook that alarmed: in words, and as it was."""

    model: str
    said: str
    look: DriftLook


class DriftLooks(msgspec.Struct, frozen=True):
    """One look at each Model that is watched."""

    looks: tuple[DriftLook, ...]
