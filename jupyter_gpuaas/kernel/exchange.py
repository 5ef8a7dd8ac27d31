"""The session's side of a shipped cell: bind what comes, run, send back what the cell assigned.

Metadata of the execute request (`Shipment`) and the answer in its reply (`Returned`) are described in
``state/exchange.py``, which both sides share.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.kernel.bundles import BundleStore
from jupyter_gpuaas.kernel.files import WorkingFolder
from jupyter_gpuaas.kernel.modules import LocalModules
from jupyter_gpuaas.state.arrival import NotThere
from jupyter_gpuaas.state.bundle import (
    FileHead,
    Group,
    GroupHead,
    assemble,
    chunks_of,
    read_head,
    take_digests,
)
from jupyter_gpuaas.state.describe import describe
from jupyter_gpuaas.state.exchange import Returned, Shipment
from jupyter_gpuaas.state.packing import Unit, look, pack, pack_group, together, unpack_group
from jupyter_gpuaas.state.pickler import TooLarge
from jupyter_gpuaas.state.pickling import HELD, NotHeld, held
from jupyter_gpuaas.state.rules.registry import NotRestorable

_MISSING = object()


class CannotBind(CellError):
    """What came with a cell could not be bound, so the cell must not run."""


class _Receipt(msgspec.Struct):
    """A group as it was when it was bound: what both sides call it, and its digest as packed here."""

    version: str
    digest: str
    #: Digests of its chunks as they were sent.
    chunks: frozenset[bytes]


class Exchange:
    """Serves one kernel. All methods run in the kernel's main thread, between cells.

    Parameters
    ----------
    shell
        An IPython ``InteractiveShell``.
    """

    def __init__(self, shell: Any, bundles: BundleStore) -> None:
        self._shell = shell
        #: Variables on their way in and out.
        self.bundles = bundles
        self._receipts: dict[tuple[str, ...], _Receipt] = {}
        self._modules = LocalModules()
        self._files: WorkingFolder | None = None
        #: Names that the cell assigns and that were taken away for its duration.
        self._prior: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        #: Chunks that the next bundle may leave out, as the client has been told that they are here.
        self._chunks: dict[bytes, memoryview] = {}
        #: Digests of the chunks that the client of the cell holds.
        self._theirs: set[bytes] = set()

    @property
    def _folder(self) -> WorkingFolder:
        # Not at construction: a kernel that was started ahead gets its folder when a session takes it.
        if self._files is None:
            self._files = WorkingFolder(Path(os.environ.get("GPUAAS_WORK") or Path.cwd()))
        return self._files

    # -- operations between cells ----------------------------------------------------------------

    async def request(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out ``content["op"]``.

        Raises
        ------
        CellError
            It is not known, or cannot be done.
        """
        operations: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "hello": self._hello,
            "valid": self._valid,
            "wanted": self._wanted,
            "write": self._write,
            "get": self._get,
            "again": self._again,
            "hold": self._hold,
            "drop": self._drop,
        }
        operation = operations.get(str(content.get("op")))
        if operation is None:
            raise CellError(f"operation {content.get('op')!r} is not known to this session.")
        return operation(content)

    def _hello(self, content: Mapping[str, Any]) -> dict[str, Any]:
        versions: dict[str, str | None] = {}
        for package in content.get("packages", ()):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = None
        return {
            "python": platform.python_version(),
            "packages": versions,
            "folder": str(self._folder.root),
            "pid": os.getpid(),
        }

    def _valid(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Which of the ``groups`` ([names, version]) are bound here, by their positions.

        ``valid`` are those that are just as they were sent. Of all that are ``known``, chunks need not be sent again
        except those that are ``lost``.
        """
        valid, known = [], []
        sent: set[bytes] = set()
        self._chunks.clear()
        for index, (names, version) in enumerate(content["groups"]):
            receipt = self._receipts.get(tuple(names))
            if receipt is None or receipt.version != version:
                continue
            group = self._packed(tuple(names))
            if group is None:
                continue
            known.append(index)
            if group.digest() == receipt.digest:
                valid.append(index)
            sent |= receipt.chunks
            self._chunks |= group.chunks()
        return {"valid": valid, "known": known, "lost": [digest.hex() for digest in sent - self._chunks.keys()]}

    def _wanted(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"wanted": self._folder.wanted(msgspec.convert(content["files"], list[FileHead]))}

    def _write(self, content: Mapping[str, Any]) -> dict[str, Any]:
        buffers = self.bundles.take(str(content["bundle"]))
        head = read_head(buffers)
        self._folder.write(head.files, buffers)
        return {"written": len(head.files)}

    def _get(self, content: Mapping[str, Any]) -> dict[str, Any]:
        value = held(str(content["handle"]))
        name = str(content.get("name", ""))
        try:
            # Under its own name, so that a function or class goes by value and not as a reference to itself.
            group = pack_group([name], [value], self._shell.user_ns)
        except NotRestorable as error:
            raise CellError(f"{name or 'the remote variable'} cannot be brought here: it {error}.") from error
        return {"bundle": self._offer([group])}

    def _again(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Names that were returned, whole: the client has not found what was left out."""
        group = self._packed(tuple(content["names"]))
        if group is None:
            raise CellError(f"{', '.join(content['names'])}: no longer in the session, or cannot be sent any more.")
        self._note_returned(group)
        return {"bundle": self._offer([group])}

    def _hold(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "handles": [
                self._handle(name, self._shell.user_ns[name], str(content.get("reason", "")))
                for name in content["names"]
                if name in self._shell.user_ns
            ]
        }

    def _drop(self, content: Mapping[str, Any]) -> dict[str, Any]:
        for handle in content["handles"]:
            HELD.pop(handle, None)
        return {}

    # -- around a cell ---------------------------------------------------------------------------

    def before(self, meta: Mapping[str, Any]) -> None:
        """Bind what came with the cell.

        Raises
        ------
        CannotBind
            Something of it cannot be unpacked here; the cell must not run.
        """
        shipment = msgspec.convert(meta, Shipment)
        self._drop({"handles": shipment.drop})
        for names, version in shipment.held:
            receipt = self._receipts.get(tuple(names))
            if receipt is None or receipt.version != version:
                # Asked about it was held. The session may have come back from a checkpoint since.
                raise CannotBind(f"{', '.join(names)}: no longer in the session as it was.", hint="Run the cell again.")
        buffers: Sequence[Any] = self.bundles.take(shipment.bundle) if shipment.bundle else ()
        groups: Sequence[GroupHead] = ()
        if buffers:
            head = read_head(buffers)
            groups = head.groups
            self._folder.write(head.files, buffers)
        root = self._folder.root
        self._modules.add_paths(root, shipment.paths)
        try:
            self._modules.renew({self._folder.place(path): digest for path, digest in shipment.modules})
        except Exception as error:
            raise CannotBind(f"a local module cannot be imported again: {type(error).__name__}: {error}") from error
        for group in groups:
            self._bind(group, buffers)
        self._chunks.clear()
        space = self._shell.user_ns
        inputs = set(shipment.inputs)
        held_there = [receipt.chunks for names, receipt in self._receipts.items() if not inputs.isdisjoint(names)]
        self._theirs = set().union(*held_there)
        self._inputs = {name: space[name] for name in shipment.inputs if name in space}
        self._prior = {name: space.pop(name) for name in shipment.assigns if name not in self._inputs and name in space}

    def _bind(self, group: GroupHead, buffers: Sequence[Any]) -> None:
        names = ", ".join(group.names)
        try:
            values = unpack_group(group, buffers, self._shell.user_ns, held=self._chunks)
        except ModuleNotFoundError as error:
            raise CannotBind(
                f"{names}: needs the module {error.name!r}, which the remote session does not have.",
                hint=f"Install it there: %%remote_gpu with %pip install {(error.name or '').partition('.')[0]}.",
            ) from error
        except NotHeld as error:
            raise CannotBind(f"{names}: {error}") from error
        except NotThere as error:
            raise CannotBind(f"{names}: {error}.", hint="Run the cell again.") from error
        except NotRestorable as error:
            raise CannotBind(f"{names}: {error}") from error
        except Exception as error:
            raise CannotBind(
                f"{names}: cannot be unpacked in the remote session: {type(error).__name__}: {error}"
            ) from error
        self._shell.user_ns.update(values)
        self._forget(values)
        if group.version:
            self._note(group)

    def _forget(self, names: Iterable[str]) -> None:
        names = set(names)
        for known in [known for known in self._receipts if not names.isdisjoint(known)]:
            del self._receipts[known]

    def _note(self, group: GroupHead) -> None:
        """Remember the group as it is packed here, so that its state can later be told from a changed one."""
        packed = self._packed(group.names)
        if packed is not None:
            take_digests(packed, group)
            self._receipts[group.names] = _Receipt(group.version, packed.digest(), chunks_of(group))

    def _packed(self, names: tuple[str, ...]) -> Group | None:
        """Names as they are now; while a cell runs, inputs as they came. None if they are not there."""
        space = self._shell.user_ns
        values = [self._inputs.get(name, space.get(name, _MISSING)) for name in names]
        if any(value is _MISSING for value in values):
            return None
        try:
            return pack_group(names, values, space)
        except NotRestorable:
            return None

    def after(self, meta: Mapping[str, Any], reply: Mapping[str, Any]) -> dict[str, Any]:
        """What the cell did to the notebook's names, for the reply. Never raises."""
        try:
            returned = self._returned(msgspec.convert(meta, Shipment))
        except (Exception, KeyboardInterrupt) as error:
            returned = Returned(failure=f"{type(error).__name__}: {error}")
        finally:
            self._inputs.clear()
            self._prior.clear()
        result: dict[str, Any] = msgspec.to_builtins(returned)
        return result

    def _returned(self, shipment: Shipment) -> Returned:
        space = self._shell.user_ns
        not_reached = {name: value for name, value in self._prior.items() if name not in space}
        space.update(not_reached)
        returned = Returned()
        unchanged = self._untouched_inputs(returned, shipment)
        values: dict[str, Any] = {}
        for name in dict.fromkeys([*shipment.assigns, *shipment.force]):
            if name not in space:
                if name in self._inputs or name in shipment.deletes:
                    returned.deleted.append(name)
                elif name in shipment.force:
                    returned.missing.append(name)
                continue
            value = space[name]
            if name in not_reached and name not in shipment.force:
                continue
            twin = next((known for known in unchanged if self._inputs[known] is value), None)
            if twin is None:
                values[name] = value
            elif twin != name:
                returned.aliases[name] = twin
        returned.deleted += [name for name in shipment.deletes if name not in space and name not in returned.deleted]
        self._export(values, {name: self._inputs[name] for name in unchanged}, shipment, returned)
        return returned

    def _untouched_inputs(self, returned: Returned, shipment: Shipment) -> set[str]:
        """Inputs that are as they came; the others, if the cell did not assign them, are reported as changed."""
        untouched: set[str] = set()
        assigned = {*shipment.assigns, *shipment.force, *shipment.deletes}
        for names in self._receipts:
            mine = [name for name in names if name in self._inputs]
            if not mine:
                continue
            if self._unchanged(names):
                untouched.update(mine)
            else:
                returned.changed += [name for name in mine if name not in assigned]
        return untouched

    def _unchanged(self, names: tuple[str, ...]) -> bool:
        packed = self._packed(names)
        return packed is not None and packed.digest() == self._receipts[names].digest

    # -- results ---------------------------------------------------------------------------------

    def _export(
        self, values: Mapping[str, Any], known: Mapping[str, Any], shipment: Shipment, returned: Returned
    ) -> None:
        """Offer values; what they hold of the inputs in ``known`` is the client's own."""
        space = self._shell.user_ns
        units: list[Unit] = []
        for name, value in values.items():
            limit = sys.maxsize if name in shipment.force else shipment.small_value_bytes
            try:
                units.append(look([name], [value], space, known=list(known.values()), limit_bytes=limit))
            except TooLarge:
                returned.handles.append(self._handle(name, value, ""))
            except NotRestorable as error:
                returned.handles.append(self._handle(name, value, str(error)))
        joint = together(units, space, known=list(known.values()))
        groups = [pack(unit, space, known=known) for unit in joint]
        for group in groups:
            self._note_returned(group)
        if groups:
            returned.bundle = self._offer(groups, self._theirs)

    def _note_returned(self, group: Group) -> None:
        self._forget(group.names)
        group.version = uuid.uuid4().hex
        # By itself, as it will be looked at: now it may refer to inputs.
        alone = self._packed(group.names) if group.known else group
        if alone is not None:
            self._receipts[group.names] = _Receipt(group.version, alone.digest(), frozenset(group.chunks()))

    def _offer(self, groups: Sequence[Group], held_there: Collection[bytes] = ()) -> str:
        bundle = uuid.uuid4().hex
        self.bundles.offer(bundle, assemble(groups, held=held_there))
        return bundle

    def _handle(self, name: str, value: Any, reason: str) -> dict[str, Any]:
        handle = next((known for known, obj in HELD.items() if obj is value), None) or uuid.uuid4().hex
        HELD[handle] = value
        return {"name": name, "handle": handle, "reason": reason, **describe(value)}
