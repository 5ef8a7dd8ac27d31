"""Sums over spans for which devices were held. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from ..model import SessionUsage, UserUsage


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that a session held from one time to another."""

    session_id: str
    owner: str
    devices: float
    from_s: float
    #: None while they are held.
    until_s: float | None = None
    name: str = ""

    def within(self, from_s: float, until_s: float) -> float:
        """Device-seconds between two times."""
        end_s = until_s if self.until_s is None else min(self.until_s, until_s)
        return self.devices * max(0.0, end_s - max(self.from_s, from_s))


def by_session(spans: Iterable[Span], from_s: float, until_s: float) -> list[SessionUsage]:
    """Each session's use between two times, the greatest first."""
    found: dict[str, SessionUsage] = {}
    for span in spans:
        before = found.get(span.session_id) or SessionUsage(
            session_id=span.session_id, name=span.name, owner=span.owner
        )
        found[span.session_id] = msgspec.structs.replace(
            before,
            device_seconds=before.device_seconds + span.within(from_s, until_s),
            devices=before.devices + (span.devices if span.until_s is None else 0),
        )
    return sorted(found.values(), key=lambda each: (-each.device_seconds, each.session_id))


def by_user(sessions: Iterable[SessionUsage]) -> list[UserUsage]:
    """Each user's use, the greatest first."""
    found: dict[str, UserUsage] = {}
    for each in sessions:
        before = found.get(each.owner) or UserUsage(user=each.owner)
        found[each.owner] = UserUsage(
            user=each.owner,
            device_seconds=before.device_seconds + each.device_seconds,
            devices=before.devices + each.devices,
            sessions=before.sessions + 1,
        )
    return sorted(found.values(), key=lambda each: (-each.device_seconds, each.user))


def remembered(span: Span, now_s: float, half_life_s: float) -> float:
    """The device-seconds of a span, of which each weighs half as much after every ``half_life_s``.

    What fair shares are compared by: last week counts less than this morning.
    """
    end_s = now_s if span.until_s is None else min(span.until_s, now_s)
    if end_s <= span.from_s:
        return 0.0
    rate = math.log(2) / half_life_s
    return span.devices / rate * (math.exp(-rate * (now_s - end_s)) - math.exp(-rate * (now_s - span.from_s)))
