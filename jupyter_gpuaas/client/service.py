"""Client of the controller: one method a REST route, answers as facts, failures as the errors of ``errors.py``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from jupyter_gpuaas.client.rest import RestClient
from jupyter_gpuaas.model import (
    Account,
    AuditEntry,
    CellRuns,
    ChannelInfo,
    CheckpointDiff,
    CheckpointStatus,
    CheckpointView,
    DrainView,
    Event,
    GpuSession,
    Lease,
    MigrationPlan,
    MigrationView,
    NewToken,
    NodeView,
    Proposal,
    Replay,
    Reservation,
    ResourceRequest,
    RestoreReport,
    SessionView,
    TokenView,
    UsageView,
    UserView,
    Via,
)

#: So many are asked for at a time.
SESSIONS_A_PAGE = 500
#: For what has to wait until the cells that run have ended.
LONG_S = 7 * 24 * 3600.0


class ServiceClient(RestClient):
    """Talks to one controller as one user."""

    # -- the service -----------------------------------------------------------------------------

    async def health(self) -> dict[str, str]:
        """``{"status", "version"}``; needs no token."""
        return await self._call(dict[str, str], "GET", "/health")

    async def me(self) -> UserView:
        """Whose token it is."""
        return await self._call(UserView, "GET", "/me")

    async def nodes(self) -> list[NodeView]:
        """The nodes of the pool, with what their devices do now."""
        return await self._call(list[NodeView], "GET", "/nodes")

    async def allocations(self) -> list[Lease]:
        """The leases that the user's sessions hold; all of them for an admin."""
        return await self._call(list[Lease], "GET", "/allocations")

    # -- users (admins only) ---------------------------------------------------------------------

    async def users(self) -> list[Account]:
        """All users, with what they hold and have used."""
        return await self._call(list[Account], "GET", "/users")

    async def put_user(
        self, user: str, *, blocked: bool | None = None, limits: Mapping[str, Any] | None = None
    ) -> Account:
        """Make a user, or change what is given of one; a limit of None means what the settings say."""
        body = {"blocked": blocked, "limits": None if limits is None else dict(limits)}
        return await self._call(Account, "PUT", f"/users/{_quoted(user)}", body=body)

    async def drop_user(self, user: str) -> None:
        """Revoke a user's tokens and forget the user."""
        await self._call(dict[str, Any], "DELETE", f"/users/{_quoted(user)}")

    async def create_token(
        self,
        user: str,
        *,
        role: str = "user",
        ttl_s: float = 0.0,
        scopes: Sequence[str] | None = None,
        label: str = "",
    ) -> NewToken:
        """Make a token; ``ttl_s`` 0 means that it does not end, ``scopes`` None what is usual for its role."""
        body = {"user": user, "role": role, "ttl_s": ttl_s, "scopes": scopes, "label": label}
        return await self._call(NewToken, "POST", "/tokens", body=body)

    async def tokens(self, *, user: str = "") -> list[TokenView]:
        """Tokens that are valid, of one user or of all."""
        return await self._call(list[TokenView], "GET", "/tokens", query={"of": user})

    async def revoke_token(self, token_id: str) -> TokenView:
        """Make a token invalid from now on."""
        return await self._call(TokenView, "DELETE", f"/tokens/{_quoted(token_id)}")

    async def reservations(self) -> list[Reservation]:
        """Devices that are kept for the user, and until when; for all users, for an admin."""
        return await self._call(list[Reservation], "GET", "/reservations")

    async def reserve(
        self,
        user: str,
        devices: int,
        *,
        until_s: float,
        from_s: float = 0.0,
        kind: str | None = None,
        node: str | None = None,
        label: str = "",
    ) -> Reservation:
        """Keep devices for a user from one time (0: now) to another (admins only)."""
        body = {
            "user": user,
            "devices": devices,
            "from_s": from_s,
            "until_s": until_s,
            "kind": kind,
            "node": node,
            "label": label,
        }
        return await self._call(Reservation, "POST", "/reservations", body=body)

    async def cancel_reservation(self, reservation_id: str) -> Reservation:
        """Keep the devices no longer (admins only)."""
        return await self._call(Reservation, "DELETE", f"/reservations/{_quoted(reservation_id)}")

    async def audit(
        self, *, after: int = 0, limit: int = 1000, user: str = "", target: str = "", last: bool = False
    ) -> list[AuditEntry]:
        """Who did what, oldest first; with ``last`` the newest of it."""
        query = {"after": after, "limit": limit, "by": user, "target": target, "last": int(last)}
        return await self._call(list[AuditEntry], "GET", "/audit", query=query)

    # --------------------------------------------------------------------------------------------

    async def usage(self, *, from_s: float = 0.0) -> UsageView:
        """Devices that the user's sessions have held since a time, in device-seconds; everybody's for an admin."""
        return await self._call(UsageView, "GET", "/usage", query={"from_s": from_s})

    async def metrics(self) -> str:
        """Figures in Prometheus' text format."""
        return "".join([piece async for piece in self._text("/metrics", query={})])

    async def stop(self) -> None:
        """End the service with its sessions and nodes (admins only); answers before that has happened."""
        await self._call(dict[str, Any], "POST", "/stop")

    # -- sessions --------------------------------------------------------------------------------

    async def create_session(
        self,
        name: str,
        *,
        request: ResourceRequest | None = None,
        cwd: str = "",
        machine: str = "",
        env: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> SessionView:
        """The user's live session of this name, made if there is none.

        Waits up to ``wait_s`` for it to be ready, to fail, or to change its place in the queue.
        """
        body = {
            "name": name,
            "request": msgspec.to_builtins(request or ResourceRequest()),
            "cwd": cwd,
            "machine": machine,
            "env": dict(env or {}),
            "wait_s": wait_s,
        }
        return await self._call(SessionView, "POST", "/sessions", body=body, wait_s=wait_s)

    async def sessions(self, *, all: bool = False, name: str = "") -> list[GpuSession]:
        """The user's live sessions, oldest first; with ``all`` also those that have ended. Asked for in pages."""
        found: list[GpuSession] = []
        while True:
            after = found[-1].id if found else ""
            page = await self.page_of_sessions(all=all, name=name, after=after, limit=SESSIONS_A_PAGE)
            found += page
            if len(page) != SESSIONS_A_PAGE:
                return found

    async def page_of_sessions(
        self, *, all: bool = False, name: str = "", after: str = "", limit: int = SESSIONS_A_PAGE
    ) -> list[GpuSession]:
        """Some of them, behind the session with the id ``after``; fewer than ``limit`` at the end."""
        query = (
            {"all": int(all), "limit": limit} | ({"name": name} if name else {}) | ({"after": after} if after else {})
        )
        return await self._call(list[GpuSession], "GET", "/sessions", query=query)

    async def session(self, session: str, *, after: int | None = None, wait_s: float = 0.0) -> SessionView:
        """One session by id or name.

        With ``after`` (a ``GpuSession.last_event``) the answer comes when the session has a newer event or another
        place in the queue, at the latest after ``wait_s``.
        """
        query: dict[str, Any] = {"wait_s": wait_s}
        if after is not None:
            query["after"] = after
        return await self._call(SessionView, "GET", f"/sessions/{_quoted(session)}", query=query, wait_s=wait_s)

    async def release(self, session: str) -> SessionView:
        """End a session; answers when nothing of it runs any more."""
        return await self._call(SessionView, "DELETE", f"/sessions/{_quoted(session)}")

    async def cells(self, session: str, *, after: str = "", journal: str = "") -> CellRuns:
        """The newest execution of each cell of the session's notebook, with its outputs.

        Parameters
        ----------
        after
            Only those with something new behind this record, or behind the request of this ``msg_id``.
        journal
            Which journal that record is of.
        """
        query = {"after": after, "journal": journal}
        return await self._call(CellRuns, "GET", f"/sessions/{_quoted(session)}/cells", query=query)

    async def interrupt(self, session: str) -> None:
        """Interrupt the cell that runs."""
        await self._call(dict[str, Any], "POST", f"/sessions/{_quoted(session)}/interrupt")

    async def restart(self, session: str) -> None:
        """Replace the kernel by a fresh one; its variables are gone."""
        await self._call(dict[str, Any], "POST", f"/sessions/{_quoted(session)}/restart")

    async def ticket(self, session: str) -> ChannelInfo:
        """A fresh ticket, with the addresses of the session's channel."""
        return await self._call(ChannelInfo, "POST", f"/sessions/{_quoted(session)}/ticket")

    def follow_log(
        self, session: str, *, kind: str = "output", tail: int = 0, follow: bool = False
    ) -> AsyncGenerator[str, None]:
        """Pieces of a session's log as they come.

        Parameters
        ----------
        kind
            ``output`` is what the session printed, ``system`` what its host and kernel logged.
        tail
            Only this many of the last lines; 0 means all that is kept.
        """
        query = {"kind": kind, "tail": tail, "follow": int(follow)}
        return self._text(f"/sessions/{_quoted(session)}/log", query=query, follow=follow)

    async def log(self, session: str, *, kind: str = "output", tail: int = 0) -> str:
        """A session's log as it is now; parameters as for `follow_log`."""
        pieces = [piece async for piece in self.follow_log(session, kind=kind, tail=tail)]
        return "".join(pieces)

    # -- checkpoints -----------------------------------------------------------------------------

    async def checkpoints(self, session: str) -> list[CheckpointView]:
        """A session's checkpoints, oldest first; also of one that has ended."""
        return await self._call(list[CheckpointView], "GET", f"/sessions/{_quoted(session)}/checkpoints")

    async def take_checkpoint(self, session: str, *, name: str = "", request: str = "") -> CheckpointView:
        """Take one when the cells that run have ended; answers when it is durable.

        Parameters
        ----------
        request
            What to call this, so that `give_up` can mean it.
        """
        body = {"name": name, "request": request}
        path = f"/sessions/{_quoted(session)}/checkpoints"
        return await self._call(CheckpointView, "POST", path, body=body, wait_s=LONG_S)

    async def checkpoint_every(self, session: str, every: int) -> CheckpointStatus:
        """From now on after so many cells; 0 for none by itself."""
        path = f"/sessions/{_quoted(session)}/checkpoints"
        return await self._call(CheckpointStatus, "PATCH", path, body={"every": every}, wait_s=LONG_S)

    async def restore(
        self, session: str, checkpoint: str, *, new: str | None = None, replay: Replay = "safe", request: str = ""
    ) -> RestoreReport:
        """Make the session's variables those of a checkpoint, or begin the session ``new`` with it.

        Parameters
        ----------
        replay
            Which cells may run again for what could not be stored: ``never`` any, ``safe`` those without visible side
            effects, ``all``. Of a new session always ``safe``.
        """
        body = {"checkpoint": checkpoint, "new": new, "replay": replay, "request": request}
        path = f"/sessions/{_quoted(session)}/restores"
        return await self._call(RestoreReport, "POST", path, body=body, wait_s=LONG_S)

    async def diff_checkpoints(self, session: str, one: str, other: str) -> CheckpointDiff:
        """Names that differ between two checkpoints."""
        path = f"/sessions/{_quoted(session)}/checkpoints/{_quoted(one)}/diff/{_quoted(other)}"
        return await self._call(CheckpointDiff, "GET", path)

    async def name_checkpoint(self, session: str, checkpoint: str, name: str) -> CheckpointView:
        """Call a checkpoint so; an empty name takes away the one that it has."""
        path = f"/sessions/{_quoted(session)}/checkpoints/{_quoted(checkpoint)}"
        return await self._call(CheckpointView, "PATCH", path, body={"name": name})

    async def forget_checkpoint(self, session: str, checkpoint: str) -> CheckpointView:
        """Remove a checkpoint."""
        path = f"/sessions/{_quoted(session)}/checkpoints/{_quoted(checkpoint)}"
        return await self._call(CheckpointView, "DELETE", path, wait_s=LONG_S)

    async def give_up(self, session: str, request: str) -> None:
        """Give up what was asked for under this name and is not done yet."""
        await self._call(dict[str, Any], "DELETE", f"/sessions/{_quoted(session)}/requests/{_quoted(request)}")

    # -- migrations --------------------------------------------------------------------------------

    async def plan_migration(self, session: str, target: str | None = None) -> MigrationPlan:
        """What a migration would do; nothing is done."""
        body = {"target": target, "dry_run": True}
        return await self._call(MigrationPlan, "POST", f"/sessions/{_quoted(session)}/migrations", body=body)

    async def want_standby(self, session: str, count: int) -> SessionView:
        """Give a session a standby (1) on a second node as soon as there is room, or take it away (0)."""
        return await self._call(SessionView, "PUT", f"/sessions/{_quoted(session)}/standby", body={"standby": count})

    async def set_priority(self, session: str, priority: int) -> SessionView:
        """Change who is served before whom, and who makes room for whom."""
        path = f"/sessions/{_quoted(session)}/priority"
        return await self._call(SessionView, "PUT", path, body={"priority": priority})

    async def migrate(
        self,
        session: str,
        target: str | None = None,
        *,
        via: Via = "auto",
        accept_loss: bool = False,
        wait: bool = True,
    ) -> MigrationView:
        """Begin to move a session to another node; returns at once, see `follow_migration`."""
        body = {"target": target, "via": via, "accept_loss": accept_loss, "wait": wait}
        return await self._call(MigrationView, "POST", f"/sessions/{_quoted(session)}/migrations", body=body)

    async def migration(
        self, session: str, migration: str, *, phase: str = "", rounds: int = 0, wait_s: float = 0.0
    ) -> MigrationView:
        """How a migration stands; with ``wait_s``, as soon as it is not as the caller knows it."""
        path = f"/sessions/{_quoted(session)}/migrations/{_quoted(migration)}"
        query = {"phase": phase, "rounds": rounds, "wait_s": wait_s}
        return await self._call(MigrationView, "GET", path, query=query, wait_s=wait_s)

    async def cancel_migration(self, session: str, migration: str) -> MigrationView:
        """Give a migration up, if the session is not on its new node yet."""
        path = f"/sessions/{_quoted(session)}/migrations/{_quoted(migration)}"
        return await self._call(MigrationView, "DELETE", path)

    async def park(self, session: str, *, accept_loss: bool = False) -> SessionView:
        """Give a session's devices back; answers when they are."""
        path, query = f"/sessions/{_quoted(session)}/park", {"accept_loss": accept_loss}
        return await self._call(SessionView, "POST", path, query=query, wait_s=LONG_S)

    async def wake(self, session: str) -> SessionView:
        """Bring a parked session back; any other is left alone."""
        return await self._call(SessionView, "POST", f"/sessions/{_quoted(session)}/wake")

    async def cordon(self, node: str, *, cordoned: bool) -> None:
        """Take no new sessions on a node, or take them again."""
        method = "POST" if cordoned else "DELETE"
        await self._call(dict[str, Any], method, f"/nodes/{_quoted(node)}/cordon")

    async def drain(self, node: str, *, deadline_s: float, accept_loss: bool = False) -> DrainView:
        """Begin to move all sessions off a node; returns at once."""
        body = {"deadline_s": deadline_s, "accept_loss": accept_loss}
        return await self._call(DrainView, "POST", f"/nodes/{_quoted(node)}/drain", body=body)

    async def drain_view(self, node: str) -> DrainView:
        """How far the emptying of a node is."""
        return await self._call(DrainView, "GET", f"/nodes/{_quoted(node)}/drain")

    async def stop_drain(self, node: str) -> DrainView:
        """Move no further session off a node."""
        return await self._call(DrainView, "DELETE", f"/nodes/{_quoted(node)}/drain")

    async def proposals(self) -> list[Proposal]:
        """Moves that would make room for who waits."""
        return await self._call(list[Proposal], "GET", "/rebalance")

    # -- events ----------------------------------------------------------------------------------

    async def events(self, *, after: int = 0, limit: int = 1000, session: str = "") -> list[Event]:
        """Events with a number above ``after``, oldest first."""
        query = {"after": after, "limit": limit, "session": session}
        return await self._call(list[Event], "GET", "/events", query=query)

    async def last_event(self) -> int:
        """Number of the newest event."""
        return (await self._call(dict[str, int], "GET", "/events/last"))["seq"]

    def stream_events(self, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """Events above ``after``, then each new one as it happens, until the connection breaks."""
        return self._stream(Event, f"/events/stream?after={after}")


def _quoted(session: str) -> str:
    return quote(session, safe="")
