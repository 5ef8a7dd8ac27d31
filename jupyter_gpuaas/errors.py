"""The errors of jupyter_gpuaas, one tree.

::

    GpuaasError
    ├─ AllocationError          no device could be given
    │   ├─ NoCapacity           the pool can never satisfy the request
    │   ├─ NotAsked             others were before it all the time
    │   └─ QuotaExceeded        the user has as many sessions as allowed
    ├─ LeaseError
    │   ├─ LeaseNotWritten      the engine cannot write down who holds what
    │   ├─ StaleEpoch           an older host or client tried to act; stop, never retry
    │   └─ Unauthorized         token or ticket missing, wrong or expired
    ├─ TransportError           the other side could not be reached or went silent
    │   ├─ NoHostNow            the session waits, moves or is parked
    │   └─ ServiceUnreachable
    ├─ ProtocolError
    │   ├─ LocalProtocolError   we broke the protocol: our bug
    │   └─ RemoteProtocolError  the peer broke it
    ├─ JournalError             the journal cannot be written
    ├─ CatalogueError           the service's database cannot be read or written
    │   └─ NotActing            another controller on the same database acts now
    ├─ SessionError
    │   ├─ NoSuchSession
    │   └─ SessionEnded
    ├─ CellError
    │   └─ NotShippable         names that cannot be sent, each with its reason
    ├─ CheckpointError
    │   ├─ NoSuchCheckpoint
    │   ├─ WorldMismatch        it needs packages or devices that are not here
    │   ├─ StoreError           the store cannot be read or written
    │   │   ├─ QuotaReached
    │   │   ├─ ChunkMissing
    │   │   └─ ChunkCorrupt     its bytes are not those of its digest
    │   └─ ManifestError        a manifest that must not be used; one class a defect, in ``store/manifest.py``
    ├─ MigrationError           a session could not be moved; it goes on where it was
    │   ├─ NamesLost            some of its names would not survive it, and nobody has said that they may go
    │   ├─ QuiesceTimeout       the cell that runs did not end in time
    │   └─ Diverged             it changes faster than it can be sent
    ├─ ImageError               a process image could not be taken or restored
    │   ├─ ImageUnavailable     this node makes no process images; says why
    │   ├─ NotDumpable          the processes hold what cannot go into an image; they run on
    │   ├─ NotRestorableHere    the image needs what this node does not have, or has in use
    │   └─ DeviceRefused        the CUDA driver refused to suspend or resume a process
    ├─ InvalidRequest           a request to the service names a field that is not usable
    └─ SettingError             a setting's value is not usable

    InvalidTransition(RuntimeError)   a lifecycle event in a state that has no cell for it: our bug

A user's failing cell is not among them: its Jupyter ``error`` message passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class GpuaasError(Exception):
    """Root of the tree. ``hint`` tells the user what to do; ``retryable`` whether the same call may work later."""

    retryable = False
    status = 500  # the HTTP status that a REST route answers with

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: words for the user, not our stack."""
        return [f"{type(self).__name__}: {self}"]


class AllocationError(GpuaasError):
    """No device could be given."""

    status = 409


class NoCapacity(AllocationError):
    """The pool can never satisfy the request, so waiting in the queue would be pointless."""


class NotAsked(AllocationError):
    """Others were before it all the time, so nothing is known of whether there are devices for it."""


class QuotaExceeded(AllocationError):
    """The user has as many live sessions as allowed."""

    status = 429
    retryable = True


class LeaseError(GpuaasError):
    """The caller has no right to act for this session."""

    status = 409


class LeaseNotWritten(LeaseError):
    """The engine cannot write down who holds what, for instance because the disk is full."""

    retryable = True
    status = 507


class StaleEpoch(LeaseError):
    """An older host or client tried to act. It must stop; retrying cannot help."""

    def __init__(self, offered: int, current: int) -> None:
        super().__init__(f"epoch {offered} is not the current epoch {current}")
        self.offered = offered
        self.current = current


class Unauthorized(LeaseError):
    """Token or ticket missing, wrong or expired."""

    status = 401


class Forbidden(LeaseError):
    """Known user, but not this user's thing."""

    status = 403


class TransportError(GpuaasError):
    """The other side could not be reached or went silent."""

    retryable = True
    status = 502


class NoHostNow(TransportError):
    """The session has no host at this moment: it waits, moves or is parked. It may have one soon."""

    status = 409


class ServiceUnreachable(TransportError):
    """No service answers at the configured address."""

    status = 503


class ProtocolError(GpuaasError):
    """Bytes that are not of the protocol."""

    status = 400


class LocalProtocolError(ProtocolError):
    """We broke the protocol."""

    status = 500


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


class JournalError(GpuaasError):
    """The journal cannot be written, for instance because the disk is full."""

    retryable = True
    status = 507


class CatalogueError(GpuaasError):
    """The service's database cannot be read or written, for instance because the disk is full."""

    retryable = True
    status = 507


class NotActing(CatalogueError):
    """Another controller on the same database acts now: this one may change nothing, and ends."""

    status = 503


class SessionError(GpuaasError):
    """Something about one session."""


class NoSuchSession(SessionError):
    """No live session has this id or name."""

    status = 404


class SessionEnded(SessionError):
    """The session existed and is gone."""

    status = 410


class CellError(GpuaasError):
    """A cell could not be shipped or its results not be brought back."""

    status = 400


class NotShippable(CellError):
    """Names that cannot be sent; nothing was run.

    Parameters
    ----------
    reasons
        name -> why it cannot be sent.
    """

    def __init__(self, reasons: Mapping[str, str], *, hint: str = "") -> None:
        listing = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        super().__init__(f"cannot be sent to the remote session: {listing}.", hint=hint)
        self.reasons = dict(reasons)


class CheckpointError(GpuaasError):
    """A checkpoint could not be taken, found or restored."""


class NoSuchCheckpoint(CheckpointError):
    """There is no checkpoint of this id or name."""

    status = 404


class WorldMismatch(CheckpointError):
    """The checkpoint needs what this process does not have: another Python, packages, devices."""

    status = 409


class StoreError(CheckpointError):
    """The store cannot be read or written."""

    retryable = True


class QuotaReached(StoreError):
    """The store may not hold more; what it held before is untouched."""

    status = 507
    retryable = False


class ChunkMissing(StoreError):
    """A chunk that a checkpoint needs is not in the store."""

    retryable = False


class ChunkCorrupt(StoreError):
    """The bytes of a chunk do not have its digest."""

    retryable = False


class ManifestError(CheckpointError):
    """A manifest is damaged, forged, or of a version that this program does not read; nothing of it was used."""

    status = 422


class MigrationError(GpuaasError):
    """A session could not be moved; it goes on where it was."""

    status = 409


class NamesLost(MigrationError):
    """Some names of the session would not survive it, and nobody has said that they may go."""


class QuiesceTimeout(MigrationError):
    """The cell that runs did not come to its end in time."""

    retryable = True


class Diverged(MigrationError):
    """The session changes its state faster than it can be sent."""


class ImageError(GpuaasError):
    """A process image could not be taken or restored."""


class ImageUnavailable(ImageError):
    """This node makes no process images."""

    status = 501


class NotDumpable(ImageError):
    """The processes hold something that cannot go into an image; they run on."""

    status = 409


class NotRestorableHere(ImageError):
    """The image needs something that this node does not have, or has in use."""

    status = 409


class DeviceRefused(ImageError):
    """The CUDA driver refused to suspend or resume a process."""

    status = 409
    #: ``CUresult``; 0 where we refused before asking.
    code = 0

    def __init__(self, message: str, *, hint: str = "", code: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class InvalidRequest(GpuaasError):
    """A request to the service that cannot be served as it is; the message names the field."""

    status = 422


class SettingError(GpuaasError):
    """A setting's value is not usable; the message names the setting."""

    status = 400


class InvalidTransition(RuntimeError):
    """A lifecycle event arrived in a state whose table has no cell for it: a bug of ours."""

    def __init__(self, state: str, event: str, story: str = "") -> None:
        super().__init__(f"event {event} is not possible in state {state}. {story}".strip())
        self.state = state
        self.event = event
        self.story = story


def to_wire(error: GpuaasError) -> dict[str, Any]:
    """The error as the JSON body of an HTTP answer."""
    body: dict[str, Any] = {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }
    if isinstance(error, StaleEpoch):
        body["detail"] = {"offered": error.offered, "current": error.current}
    return body


def from_wire(body: object, *, status: int) -> GpuaasError:
    """The error that the other side answered with; one that is not ours becomes a RemoteProtocolError."""
    if not isinstance(body, Mapping) or not isinstance(body.get("error"), str):
        return RemoteProtocolError(f"the service answered with status {status} and no reason.")
    message, hint = str(body.get("message", "")), str(body.get("hint", ""))
    # Defects of manifests are in a file of their own, which need not be imported.
    kind = _BY_NAME.get(body["error"]) or _tree(GpuaasError).get(body["error"])
    if kind is None:
        return RemoteProtocolError(f"{body['error']}: {message}", hint=hint)
    # Not through the constructor of the class: some make their message from other arguments.
    error = kind.__new__(kind)
    GpuaasError.__init__(error, message, hint=hint)
    detail = body.get("detail")
    if isinstance(error, StaleEpoch):
        known = detail if isinstance(detail, Mapping) else {}
        told = [known.get(name) for name in ("offered", "current")]
        error.offered, error.current = (each if isinstance(each, int) else 0 for each in told)
    if isinstance(error, NotShippable):
        error.reasons = {}
    return error


def _tree(kind: type[GpuaasError]) -> dict[str, type[GpuaasError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _tree(child)
    return found


_BY_NAME = _tree(GpuaasError)
