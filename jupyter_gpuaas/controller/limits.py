"""What each user may have, and has used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import Tokens, User
from jupyter_gpuaas.controller.metering import Meter
from jupyter_gpuaas.errors import Forbidden, QuotaExceeded
from jupyter_gpuaas.lifecycle.fairness import Standing, beyond_quota
from jupyter_gpuaas.lifecycle.usage import remembered
from jupyter_gpuaas.model import Limits, ResourceRequest

#: Half-lives after which use counts for nothing any more.
LIVES = 10


class UserLimits:
    """The settings' words and the admin's put together, and compared with what was used."""

    def __init__(self, tokens: Tokens, meter: Meter, settings: Settings) -> None:
        self._tokens = tokens
        self._meter = meter
        self._settings = settings
        #: User -> use within the window, and what is remembered of it, at the last look.
        self._used: Mapping[str, tuple[float, float]] = {}

    def of(self, user: str) -> Limits:
        """What a user may have; None means without bound."""
        own, settings = self._tokens.limits(user), self._settings
        return Limits(
            sessions=settings.sessions_per_user if own.sessions is None else own.sessions,
            devices=(settings.devices_per_user or None) if own.devices is None else own.devices,
            device_hours=(settings.device_hours_per_user or None) if own.device_hours is None else own.device_hours,
            checkpoint_bytes=self.checkpoint_bytes(user) or None,
            priority=settings.priority_most if own.priority is None else own.priority,
            share=1.0 if own.share is None else own.share,
        )

    def checkpoint_bytes(self, user: str) -> int:
        """Bytes of checkpoints that a user may have; 0 means without bound."""
        own = self._tokens.limits(user).checkpoint_bytes
        return self._settings.checkpoint_quota_bytes if own is None else own

    def changed(self, user: str, given: Mapping[str, Any]) -> Limits:
        """A user's own limits with these fields changed."""
        return msgspec.structs.replace(self._tokens.limits(user), **given)

    def used_s(self, user: str) -> float:
        """Device-seconds within the window of the quota, until now."""
        now_s = time.time()
        from_s = now_s - self._settings.quota_window_s
        return sum(span.within(from_s, now_s) for span in self._meter.spans(after_s=from_s, owner=user))

    def refresh(self) -> None:
        """Sum up again what all users have used; may take a while, so for threads."""
        now_s, half_life_s = time.time(), self._settings.share_half_life_s
        window_s = now_s - self._settings.quota_window_s
        used: dict[str, tuple[float, float]] = {}
        for span in self._meter.spans(after_s=min(window_s, now_s - LIVES * half_life_s)):
            within_s, remembered_s = used.get(span.owner, (0.0, 0.0))
            used[span.owner] = (
                within_s + span.within(window_s, now_s),
                remembered_s + remembered(span, now_s, half_life_s),
            )
        self._used = used

    def standing(self, user: str) -> Standing:
        """How a user stands, as of the last look."""
        used_s, remembered_s = self._used.get(user, (0.0, 0.0))
        return Standing(limits=self.of(user), used_s=used_s, remembered_s=remembered_s)

    def check(self, user: str, request: ResourceRequest, *, sessions: int) -> None:
        """Raise where this user may not have one more session with this request, now that there are so many.

        A quota of devices that other sessions of the user make use of is not among the reasons: it waits for them.

        Raises
        ------
        QuotaExceeded
            The message names the quota, and how far it is used.
        """
        limits = self.of(user)
        if limits.sessions is not None and sessions >= limits.sessions:
            raise QuotaExceeded(
                f"{user} has {sessions} live sessions, at most {limits.sessions} are allowed (quota sessions, setting "
                f"sessions_per_user).",
                hint="`jupyter gpuaas release SESSION` ends one.",
            )
        if limits.devices is not None and request.devices > limits.devices:
            raise QuotaExceeded(
                f"request.devices: {request.devices}, but {user} may hold {limits.devices} together (quota devices, "
                f"setting devices_per_user)."
            )
        if limits.device_hours is not None:
            used_s = self.used_s(user)
            beyond = beyond_quota(user, Standing(limits=limits, used_s=used_s), held=0, more=0)
            if beyond:
                raise QuotaExceeded(
                    f"{beyond} within {self._settings.quota_window_s / 86400:g} days (setting device_hours_per_user).",
                    hint="It grows again as what was used gets older.",
                )

    def lowered(self, user: User, request: ResourceRequest) -> ResourceRequest:
        """The request with no higher priority than a user may ask for."""
        if user.is_admin:
            return request
        return msgspec.structs.replace(request, priority=min(request.priority, self.of(user.name).priority or 0))

    def check_priority(self, user: User, request: ResourceRequest) -> None:
        """Raise Forbidden where a user may not ask for this priority; admins may ask for any."""
        most = self.of(user.name).priority or 0
        if request.priority > most and not user.is_admin:
            raise Forbidden(f"request.priority: {request.priority}, but {user.name} may ask for {most} at most.")
