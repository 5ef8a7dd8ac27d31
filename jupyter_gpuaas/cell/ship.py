"""The flow of one shipped cell: analyse, pack, send, run, bind what it assigned.

Everything that touches the user's objects happens in the thread that runs the user's code; only bytes and messages
are left to the client's event loop.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from jupyter_gpuaas.cell import modules
from jupyter_gpuaas.cell.bundle import Packed, Shared, pack
from jupyter_gpuaas.cell.remote_variable import Description, RemoteVariable
from jupyter_gpuaas.cell.sync import Plan, Synchroniser
from jupyter_gpuaas.client.bundles import get_bundle, put_bundle
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError, NoSuchSession, StaleEpoch
from jupyter_gpuaas.state import names
from jupyter_gpuaas.state.arrival import NotThere
from jupyter_gpuaas.state.bundle import (
    Buffer,
    FileHead,
    Group,
    GroupHead,
    assemble,
    chunks_of,
    read_head,
    take_digests,
)
from jupyter_gpuaas.state.exchange import Returned, Shipment
from jupyter_gpuaas.state.packing import look, unpack_group
from jupyter_gpuaas.state.packing import pack as pack_unit
from jupyter_gpuaas.state.rules.registry import NotRestorable

T = TypeVar("T")


class Runner(Protocol):
    """Runs coroutines for a synchronous caller."""

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T: ...


class Shipped(msgspec.Struct):
    """A cell ready to be executed in the session."""

    source: str
    metadata: dict[str, Any]
    #: All that it needs; what the session holds already included.
    packed: Packed
    #: What was sent of it.
    groups: list[Group]
    notes: list[str]

    def chunks(self) -> dict[bytes, memoryview]:
        """What the session may leave out of results, as it has it from here."""
        groups = [group for group in self.packed.groups if group.version]
        return {digest: chunk for group in groups for digest, chunk in group.chunks().items()}


class Held(msgspec.Struct):
    """A group that the session holds."""

    #: Of the group as it is packed here.
    digest: str
    #: What both sides call this state of it.
    version: str
    shared: Shared
    #: Digests of its chunks as they were sent.
    chunks: frozenset[bytes]


class Shipper:
    """Ships cells to one session and keeps account of what it holds.

    Parameters
    ----------
    token
        The user's own, for data through the relay.
    root
        The notebook's folder.
    """

    def __init__(
        self,
        session: RemoteSession,
        runner: Runner,
        settings: Settings,
        *,
        session_name: str,
        token: str,
        ca: str = "",
        root: Path,
    ) -> None:
        self.session = session
        self.session_id = session.id
        self.session_name = session_name
        self._runner = runner
        self._settings = settings
        self._token = token
        self._ca = ca
        self._root = root.resolve()
        self._modules = modules.LocalModules(root)
        self._synchroniser = Synchroniser(root, settings)
        self._held: dict[tuple[str, ...], Held] = {}
        self._dropped: list[str] = []
        #: The notebook's namespace.
        self._space: dict[str, Any] = {}

    # -- a cell ----------------------------------------------------------------------------------

    def prepare(
        self,
        source: str,
        space: dict[str, Any],
        *,
        transform: Callable[[str], str],
        inputs: Iterable[str] = (),
        outputs: Sequence[str] = (),
        hidden: MutableMapping[str, Any] | None = None,
    ) -> Shipped:
        """Pack and send all that the cell needs; it has not run yet.

        Raises
        ------
        NotShippable
            Some names cannot be sent.
        CellError
            Too much to send, or a name that does not exist.
        """
        self._space = space
        try:
            found = names.analyse(source, transform)
        except SyntaxError:
            found = names.CellNames()  # The session reports it as it does for any cell.
        packed = pack(
            found,
            space,
            session_id=self.session_id,
            settings=self._settings,
            forced=inputs,
            hidden=hidden,
            held={known: held.shared for known, held in self._held.items()},
        )
        local = self._modules.used(found.imports | packed.modules)
        files = [modules.describe(self._root, module) for module in local]
        new_files = self._new_files(files)
        to_send, held = self._to_send(packed)
        bundle = ""
        if to_send or new_files:
            bundle = self._put(assemble(to_send, new_files, held=held))
        sending = set(map(id, to_send))
        dropped, self._dropped = self._dropped, []
        shipment = Shipment(
            bundle=bundle,
            inputs=packed.inputs,
            held=[(list(group.names), group.version) for group in packed.groups if id(group) not in sending],
            assigns=sorted(found.assigns),
            deletes=sorted(found.deletes),
            force=list(outputs),
            small_value_bytes=self._settings.small_value_bytes,
            modules=[(file.path, file.digest) for file, _ in files],
            paths=sorted({module.folder for module in local}),
            drop=dropped,
        )
        metadata = {"gpuaas": msgspec.to_builtins(shipment)}
        sent = {name for group in to_send for name in group.names}
        notes = [f"{name} is made anew in the session: {how}" for name, how in packed.notes.items() if name in sent]
        return Shipped(source, metadata, packed, to_send, notes)

    def _to_send(self, packed: Packed) -> tuple[list[Group], set[bytes]]:
        """The groups that the session does not hold in this version, and digests of the chunks that it holds."""
        for group in packed.groups:
            if not group.has_handles:
                group.version = group.digest()
        asked = self._worth_asking(packed)
        if not asked:
            return packed.groups, set()
        answer = self._runner.run(self.session.ask("valid", groups=[(known, held.version) for known, held in asked]))
        valid = {asked[index][0]: asked[index][1] for index in answer["valid"]}
        chunks = {digest for index in answer["known"] for digest in asked[index][1].chunks}
        chunks -= {bytes.fromhex(digest) for digest in answer["lost"]}
        to_send = []
        for group in packed.groups:
            held = valid.get(group.names)
            if held is not None and group.version == held.digest:
                group.version = held.version
            else:
                to_send.append(group)
        return to_send, chunks

    def _worth_asking(self, packed: Packed) -> list[tuple[tuple[str, ...], Held]]:
        """Groups that need not be sent, or some of whose chunks need not, if the session still has them."""
        names = set(packed.inputs)
        now = {group.names: group.version for group in packed.groups if group.version}
        chunks = {digest for group in packed.groups if group.version for digest in group.chunks()}
        return [
            (known, held)
            for known, held in self._held.items()
            if not names.isdisjoint(known) and (now.get(known) == held.digest or not chunks.isdisjoint(held.chunks))
        ]

    def _new_files(self, files: Sequence[tuple[FileHead, bytes]]) -> list[tuple[FileHead, Buffer]]:
        """Those that the session lacks: it is asked, as its folder may have gone with a node since the last cell."""
        return [files[index] for index in self._wanted([file for file, _ in files])]

    # -- its results -----------------------------------------------------------------------------

    def bind(self, shipped: Shipped, reply: dict[str, Any], space: dict[str, Any]) -> list[str]:
        """Bind what the cell assigned; returns what the user should know, in words."""
        answer = reply.get("gpuaas")
        if answer is None:
            for group in shipped.groups:
                self._forget_held(group.names)
            return []
        for group in shipped.groups:
            self._forget_held(group.names)
            if group.version:
                shared = shipped.packed.shared[group.names]
                self._held[group.names] = Held(group.digest(), group.version, shared, frozenset(group.chunks()))
        returned = msgspec.convert(answer, Returned)
        notices: list[str] = list(shipped.notes)
        if returned.failure:
            notices.append(f"what the cell assigned could not be brought back: {returned.failure}")
        if returned.bundle:
            notices += self._bind_values(returned.bundle, space, shipped.chunks())
        for description in returned.handles:
            notices += self._bind_handle(description, space, asked=description.get("name") in _forced(shipped))
        for name, twin in returned.aliases.items():
            space[name] = space[twin]
        for name in returned.deleted:
            space.pop(name, None)
        if returned.missing:
            notices.append(f"-o {', '.join(returned.missing)}: the session has no such name")
        if returned.changed:
            changed = ", ".join(returned.changed)
            notices.append(
                f"changed in place in the session, but not here: {changed}. The next cell that reads it gets the "
                f"value from here; -o {','.join(returned.changed)} brings the changed one back."
            )
        return notices

    def _bind_values(self, bundle: str, space: dict[str, Any], held: dict[bytes, memoryview]) -> list[str]:
        buffers = self._get(bundle)
        notices: list[str] = []
        for group in read_head(buffers).groups:
            try:
                try:
                    values = unpack_group(group, buffers, space, held=held)
                except NotThere:
                    group, values = self._again(group, space)
            except Exception as error:  # Anything: the classes are the user's.
                reason = f"it cannot be unpacked here: {type(error).__name__}: {error}"
                answer = self._runner.run(self.session.ask("hold", names=group.names, reason=reason))
                for description in answer["handles"]:
                    notices += self._bind_handle(description, space, asked=True)
                continue
            space.update(values)
            self._note(group, values, space)
        return notices

    def _again(self, group: GroupHead, space: dict[str, Any]) -> tuple[GroupHead, dict[str, Any]]:
        """A group of which something was left out that is no longer here as the session has it."""
        buffers = self._get(self._runner.run(self.session.ask("again", names=group.names))["bundle"])
        (group,) = read_head(buffers).groups
        return group, unpack_group(group, buffers, space)

    def _note(self, group: GroupHead, values: dict[str, Any], space: dict[str, Any]) -> None:
        self._forget_held(group.names)
        try:
            unit = look(group.names, [values[name] for name in group.names], space)
            packed = pack_unit(unit, space)
        except NotRestorable:
            return
        take_digests(packed, group)
        shared = Shared(unit.ids, unit.places)
        self._held[group.names] = Held(packed.digest(), group.version, shared, chunks_of(group))

    def _forget_held(self, names: Iterable[str]) -> None:
        names = set(names)
        for known in [known for known in self._held if not names.isdisjoint(known)]:
            del self._held[known]

    def _bind_handle(self, content: dict[str, Any], space: MutableMapping[str, Any], *, asked: bool) -> list[str]:
        description = msgspec.convert(content, Description)
        space[description.name] = RemoteVariable(description, self)
        if description.reason and asked:
            return [f"{description.name} stays in the session: {description.reason}"]
        return []

    # -- remote variables ------------------------------------------------------------------------

    def fetch(self, variable: RemoteVariable) -> Any:
        """Bring a remote variable's value here."""
        answer = self._runner.run(self.session.ask("get", handle=variable.handle, name=variable.name))
        buffers = self._get(answer["bundle"])
        (group,) = read_head(buffers).groups
        try:
            (value,) = unpack_group(group, buffers, self._space).values()
        except Exception as error:
            raise CellError(
                f"{variable.name} cannot be unpacked here: {type(error).__name__}: {error}.",
                hint="Are its packages installed here?",
            ) from error
        return value

    def forget(self, handle: str) -> None:
        """Nobody here has this handle any more; the session is told with the next cell."""
        self._dropped.append(handle)

    # -- files -----------------------------------------------------------------------------------

    def sync(self, paths: Sequence[str] = ()) -> tuple[Plan, list[FileHead]]:
        """Bring the session's files in step; returns the plan and what was sent."""
        plan = self._synchroniser.plan(paths)
        wanted = [plan.files[index] for index in self._wanted(plan.files)]
        self._synchroniser.check_bounds(wanted)
        if wanted:
            content = [(file, self._synchroniser.content(file)) for file in wanted]
            bundle = self._put(assemble([], content))
            self._runner.run(self.session.ask("write", bundle=bundle))
        return plan, wanted

    def _wanted(self, files: Sequence[FileHead]) -> list[int]:
        if not files:
            return []
        wanted = self._runner.run(self.session.ask("wanted", files=[msgspec.to_builtins(file) for file in files]))
        return list(wanted["wanted"])

    # -- bytes -----------------------------------------------------------------------------------

    def _put(self, buffers: Sequence[Buffer]) -> str:
        bundle = uuid.uuid4().hex

        async def put() -> None:
            info = await self.session.info()
            try:
                await put_bundle(info, bundle, buffers, token=self._token, relay=self._settings.relay, ca=self._ca)
            except (NoSuchSession, StaleEpoch):  # it has moved to another node meanwhile
                info = await self.session.info(anew=True)
                await put_bundle(info, bundle, buffers, token=self._token, relay=self._settings.relay, ca=self._ca)

        self._runner.run(put())
        return bundle

    def _get(self, bundle: str) -> list[memoryview]:
        async def get() -> list[memoryview]:
            info = await self.session.info()
            return await get_bundle(info, bundle, token=self._token, relay=self._settings.relay, ca=self._ca)

        return self._runner.run(get())


def _forced(shipped: Shipped) -> list[str]:
    forced: list[str] = shipped.metadata["gpuaas"]["force"]
    return forced
