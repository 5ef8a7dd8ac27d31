"""Sessions as they are answered with: what they have used, and what is going to happen to them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.metering import Meter
from jupyter_gpuaas.controller.sessions import Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.lifecycle.outlook import WAITING, Rules, ends_s, parks_s, starts_s
from jupyter_gpuaas.model import GpuSession


class Outlook:
    """Adds what a session has used, and when the service is to do something to it by itself."""

    def __init__(self, sessions: Sessions, engine: Engine, meter: Meter, settings: Settings) -> None:
        self._sessions = sessions
        self._meter = meter
        self._engine = engine
        self._rules = Rules(settings.park_idle_s, settings.park_for_waiting_s, settings.unattended_s)

    def told(self, sessions: Iterable[GpuSession]) -> list[GpuSession]:
        """The same sessions with their outlook."""
        found = list(sessions)
        starts = self._starts() if any(each.state in WAITING for each in found) else {}
        accounts = self._meter.accounts({each.id: each.lease.id if each.lease else "" for each in found})
        return [
            msgspec.structs.replace(
                each,
                # So coarse that what has not changed is answered with the same number.
                device_s=round(accounts[each.id][0], 1),
                devices_since_s=accounts[each.id][1],
                parks_s=parks_s(each, self._rules),
                ends_s=ends_s(each, self._rules),
                starts_s=starts.get(each.id, 0.0),
            )
            for each in found
        ]

    def _starts(self) -> Mapping[str, float]:
        records = [live.record for live in self._sessions.all()]
        sessions = [record.session for record in records]
        # A standby gives way to whoever waits.
        aside = {record.aside.lease.id for record in records if record.aside is not None}
        return starts_s(
            sorted(
                (each for each in sessions if each.state in WAITING), key=lambda each: each.queue_place or len(records)
            ),
            sessions,
            self._engine.nodes(),
            [lease for lease in self._engine.leases() if lease.id not in aside],
            self._rules,
            time.time(),
        )
