"""What the rules of fair use are fed with: who waits, who holds what, who has used how much, what is reserved."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.reservations import Kept, ReservationRows
from jupyter_gpuaas.controller.limits import UserLimits
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import CatalogueError, InvalidRequest
from jupyter_gpuaas.lifecycle.fairness import Asking, Holding, Outlook, Pool, beyond_quota, make_room, serve
from jupyter_gpuaas.lifecycle.placement import Placement, why_never
from jupyter_gpuaas.model import Lease, Reservation, ResourceRequest, SessionState

log = logging.getLogger(__name__)

#: How often what was used is summed up again.
REFRESH_S = 30.0
#: How often it is looked whether a reservation begins or ends.
LOOK_S = 1.0


class FairUse:
    """Asks the pure rules, and keeps the reservations."""

    def __init__(
        self,
        sessions: Sessions,
        engine: Engine,
        others: Others,
        limits: UserLimits,
        rows: ReservationRows,
        settings: Settings,
    ) -> None:
        self._sessions = sessions
        self._engine = engine
        self._others = others
        self._limits = limits
        self._rows = rows
        self._settings = settings
        self._kept = {each.reservation.id: each for each in rows.all()}
        self._tasks: list[asyncio.Task[None]] = []
        #: For how long a session has been idle, None where it cannot be parked now; set by the controller.
        self.idle_s: Callable[[LiveSession], float | None] = lambda live: None
        #: What standbys hold; set by the controller.
        self.standbys: Callable[[], frozenset[Lease]] = frozenset
        #: Called when who is served next may be another; set by the controller.
        self.changed: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to look after what was used and what is reserved."""
        self._limits.refresh()
        self._tasks = [
            asyncio.create_task(self._refresh(), name="what was used"),
            asyncio.create_task(self._look_after(), name="reservations"),
        ]

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await asyncio.to_thread(self._limits.refresh)
            except CatalogueError as error:
                log.error("use of devices not summed up: %s", error)
                continue
            self.changed()

    # -- the rules ---------------------------------------------------------------------------------------------

    def serve(self, waiting: Sequence[LiveSession], coming: Sequence[tuple[str, Placement]]) -> Outlook:
        """Who of those who wait gets which devices now.

        Parameters
        ----------
        coming
            Owners, and what the engine was asked to give their sessions.
        """
        pool = self.pool(waiting)
        given = {each.session_id for each in pool.holdings}
        more = [
            Holding(
                session_id=each.session_id,
                owner=owner,
                node_id=each.node_id,
                device_ids=each.device_ids,
                share=each.share,
            )
            for owner, each in coming
            if each.session_id not in given
        ]
        pool = msgspec.structs.replace(pool, holdings=[*pool.holdings, *more])
        return serve([_asking(live) for live in waiting], pool)

    def push_out(self, waiting: Sequence[LiveSession]) -> list[tuple[str, str]]:
        """Sessions to park so that the first of those who wait is served whom that helps."""
        return make_room(map(_asking, waiting), self.pool(waiting)) if waiting else []

    def gives_turn(self, holder: LiveSession, waiting: Sequence[LiveSession]) -> bool:
        """Whether somebody else would get what this one gives up, and not this one again, which then waits, too."""
        pool = self.pool([*waiting, holder])
        left = [each for each in pool.holdings if each.session_id != holder.session.id]
        pool = msgspec.structs.replace(pool, holdings=left)
        lease = holder.lease
        assert lease is not None
        # It asks for what it gives up: that it could go on elsewhere helps nobody who waits for this.
        again = msgspec.structs.replace(holder.session.request, node=lease.node_id)
        its = Asking(session_id=holder.session.id, owner=holder.session.owner, request=again, kept=lease)
        outlook = serve([*map(_asking, waiting), its], pool)
        return all(each.session_id != holder.session.id for each in outlook.placements)

    def over(self, live: LiveSession) -> str:
        """Why a session is to give its devices back at the next opportunity; mostly empty."""
        owner = live.session.owner
        return beyond_quota(owner, self._limits.standing(owner), held=-(2**40), more=0)

    def pool(self, waiting: Iterable[LiveSession]) -> Pool:
        """The pool as it is now."""
        holdings, now_s = [], time.time()
        standbys = {lease.id for lease in self.standbys()}
        for lease in self._engine.leases():
            live = self._sessions.get(lease.session_id)
            idle_s = self.idle_s(live) if live is not None and live.lease == lease else None
            holdings.append(
                Holding(
                    session_id=lease.session_id,
                    owner=live.session.owner if live is not None else "",
                    node_id=lease.node_id,
                    device_ids=lease.device_ids,
                    priority=live.session.request.priority if live is not None else 0,
                    parkable=idle_s is not None,
                    idle_s=idle_s or 0.0,
                    share=lease.share,
                    standby=lease.id in standbys,
                )
            )
        holdings += [
            Holding(
                session_id="",
                owner="",
                node_id=each.node_id,
                device_ids=each.device_ids,
                share=each.share,
                foreign=True,
            )
            for each in self._others.held()
        ]
        owners = {live.session.owner for live in waiting}
        return Pool(
            nodes=self._engine.nodes(),
            holdings=holdings,
            standings={owner: self._limits.standing(owner) for owner in owners},
            reservations=[each.reservation for each in self._kept.values() if each.reservation.runs(now_s)],
            pack=self._settings.placement == "pack",
        )

    # -- reservations ------------------------------------------------------------------------------------------

    def reservations(self, user: str | None) -> list[Reservation]:
        """Those that run or are to come, the earliest first; ``user`` None means everybody's."""
        found = (each.reservation for each in self._kept.values())
        return sorted((each for each in found if user in (None, each.user)), key=lambda each: (each.from_s, each.id))

    def reserve(
        self,
        user: str,
        devices: int,
        *,
        from_s: float,
        until_s: float,
        kind: str | None,
        node: str | None,
        label: str,
        made_by: str,
    ) -> Reservation:
        """Keep devices for a user.

        Raises
        ------
        InvalidRequest
            It ends before it begins, or the pool, or its node, does not have so many beside what is reserved then.
        """
        now_s = time.time()
        if until_s <= max(now_s, from_s):
            raise InvalidRequest("until_s: must be later than from_s, and than now.")
        made = Reservation(
            id=uuid.uuid4().hex[:16],
            user=user,
            devices=devices,
            from_s=from_s or now_s,
            until_s=until_s,
            kind=kind,
            node=node,
            label=label,
            made_by=made_by,
        )
        nodes = self._engine.nodes()
        if node is not None:
            never = why_never(ResourceRequest(devices=devices, kind=kind, node=node), nodes)
            if never:
                raise InvalidRequest(f"{never}.")
        at_that_time = [
            each
            for each in self.reservations(None)
            if each.from_s < made.until_s and made.from_s < each.until_s and (kind is None or each.kind in (None, kind))
        ]
        # On its node beside those that may be there, and in the pool beside all.
        for on in dict.fromkeys((node, None)):
            beside = sum(each.devices for each in at_that_time if on is None or each.node in (None, on))
            there = sum(
                kind in (None, device.kind) for each in nodes for device in each.devices if on in (None, each.id)
            )
            if devices + beside > there:
                raise InvalidRequest(
                    f"devices: {devices}, but {'the pool' if on is None else f'node {on}'} has {there} of these, of "
                    f"which {beside} are reserved at that time."
                )
        self._rows.add(made)
        self._kept[made.id] = Kept(reservation=made)
        self._look(now_s)
        return made

    def cancel(self, reservation_id: str, by: str) -> Reservation:
        """Keep the devices no longer."""
        kept = self._kept.get(reservation_id)
        if kept is None:
            raise InvalidRequest(f"reservation: there is none with the id {reservation_id[:64]!r}.")
        self._drop(kept, f"was cancelled by {by}")
        return kept.reservation

    async def _look_after(self) -> None:
        while True:
            try:
                self._look(time.time())
            except CatalogueError as error:
                log.error("reservations: %s", error)
            await asyncio.sleep(LOOK_S)

    def _look(self, now_s: float) -> None:
        for kept in list(self._kept.values()):
            each = kept.reservation
            if now_s >= each.until_s:
                self._drop(kept, "has ended: its sessions go on, and may be parked for others")
                continue
            if each.runs(now_s) and not kept.begun:
                self._announce(kept, f"runs until {_when(each.until_s)}", begun=True)
                self.changed()
            if now_s >= each.until_s - self._settings.reservation_notice_s and not self._kept[each.id].noticed:
                left = f"in {(each.until_s - now_s) / 60:.0f} min"
                self._announce(self._kept[each.id], f"ends {left}, at {_when(each.until_s)}", noticed=True)

    def _announce(self, kept: Kept, what: str, **changes: bool) -> None:
        kept = msgspec.structs.replace(kept, **changes)
        self._rows.announced(kept)
        self._kept[kept.reservation.id] = kept
        self._tell(kept.reservation, what)

    def _drop(self, kept: Kept, what: str) -> None:
        self._rows.drop(kept.reservation.id)
        del self._kept[kept.reservation.id]
        self._tell(kept.reservation, what)
        self.changed()

    def _tell(self, reservation: Reservation, what: str) -> None:
        text = f"the reservation of {reservation.devices} devices for {reservation.user} {what}"
        detail = {"reservation": reservation.id, "until_s": reservation.until_s}
        mine = [live for live in self._sessions.all() if live.session.owner == reservation.user and not live.ended()]
        for live in mine:
            self._sessions.tell(live.session, "reservation", text, detail)
        if not mine:
            self._sessions.tell_user(reservation.user, "reservation", text, detail)


def _asking(live: LiveSession) -> Asking:
    session = live.session
    return Asking(session_id=session.id, owner=session.owner, request=asked_for(live), kept=live.kept)


def asked_for(live: LiveSession) -> ResourceRequest:
    """What a session waits for: one whose processes stand still goes on where they are."""
    request, kept = live.session.request, live.kept
    return request if kept is None else msgspec.structs.replace(request, node=kept.node_id)


def _when(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


#: States in which a session waits for devices.
WAITING = (SessionState.QUEUED, SessionState.RESTORING, SessionState.SUSPENDED)
