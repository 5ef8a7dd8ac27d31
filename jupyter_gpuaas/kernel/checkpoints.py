"""Checkpoints of the kernel's own variables: after each cell by itself, and what the user asks for.

Everything here runs in the kernel's main thread, between messages or inside a cell, but for ``_ended`` and
``_between``, which the writer's thread calls. Nothing here may disturb a cell: what fails is told, not raised, unless
the user asked for it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec

from ..errors import CheckpointError, NoSuchCheckpoint, QuotaReached, StaleEpoch, StoreError
from ..model import (
    REPLAYS,
    CheckpointDiff,
    CheckpointPlan,
    CheckpointStatus,
    CheckpointView,
    Outdated,
    Replay,
    RestoreReport,
    short_id,
)
from ..state.ahead import Ahead
from ..state.archive import Archive
from ..state.checkpointer import BaseGone, Checkpoint, Checkpointer, Pending
from ..state.listing import owners_address, view_of
from ..state.outdated import outdated
from ..state.recipes import CellRecord
from ..store.base import Store
from ..store.opening import open_store
from .bringing_back import bring_back
from .burst import Burst
from .capture_writer import CaptureWriter, GivenUp, Job, most_waiting, wait
from .cells_run import CellsRun, Run
from .giving_up import GivingUp
from .pace import Pace
from .since import Since
from .standing import Standing
from .tidying import Tidying

#: After a failure, how long no capture is tried; it doubles with each in a row.
PAUSE_S = 5.0
MOST_PAUSE_S = 300.0
#: A capture that would have held up the next cell is taken when nothing has happened for so long.
QUIET_S = 1.0
#: How long who asks for the newest ones waits for those that are being written.
WRITING_S = 60.0

Told = Callable[[int, int], None]


class Checkpoints:
    """The checkpoints of one session's kernel.

    Parameters
    ----------
    shell
        IPython's shell.
    tell
        Called from any thread with what the host should know: ``{"kind": ..., "status": ..., ...}``.
    """

    def __init__(
        self, shell: Any, plan: CheckpointPlan, *, session: str, epoch: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self._shell = shell
        self._plan = plan
        self._session = session
        self._epoch = epoch
        self._standing = Standing(plan.every, tell)
        self._checkpointer: Checkpointer | None = None
        self._writer = CaptureWriter(most_waiting(plan.waiting_bytes), self._ended, self._between)
        self._pace = Pace(plan.share)
        self._burst = Burst(plan.together_s)
        self._since = Since(shell)
        self._run = CellsRun(shell)
        #: Names that the code of variables reads, as of the last capture.
        self._reads: dict[str, frozenset[str]] = {}
        #: Whether the capture that is being taken has one before it to compare with.
        self._compares = False
        #: Whether a cell has run since the pace was last asked.
        self._fresh = False
        self._warm = False
        self._parent: Pending | Checkpoint | None = None
        self._parent_generation = 0
        self._committed: Checkpoint | None = None
        #: The session has gone on elsewhere, so nothing of here is to be kept any more.
        self._stale: StaleEpoch | None = None
        self._retry_s = 0.0
        self._pause_s = PAUSE_S
        self._rarer_told = False
        self._tidying = Tidying(plan, session)
        self._giving_up = GivingUp()

    @property
    def shell(self) -> Any:
        """IPython's shell."""
        return self._shell

    @property
    def session(self) -> str:
        """Id of the session."""
        return self._session

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was captured is written, and lock nothing in the store; False when it took longer.

        A lock that this process holds could not be had by its own image, where both nodes see the same files.
        """
        if not self._writer.drain(timeout_s):
            return False
        if self._checkpointer is not None:
            self._checkpointer.store.close()  # it opens again what it needs
        return True

    def belong_to(self, epoch: int) -> None:
        """The session's host is another one, and this process is the same: what it takes from now on is that one's."""
        self._epoch = epoch

    @property
    def key(self) -> bytes:
        """Secret of the owner."""
        return bytes.fromhex(self._plan.key)

    @property
    def checkpointer(self) -> Checkpointer:
        """Made at first use: a store that cannot be opened is no reason not to run cells."""
        if self._checkpointer is None:
            address = owners_address(self._plan.store, self._plan.owner)
            store = open_store(address, quota_bytes=self._plan.quota_bytes)
            self._checkpointer = self._checkpointer_on(store)
        return self._checkpointer

    def _checkpointer_on(self, store: Store) -> Checkpointer:
        plan = self._plan
        return Checkpointer(store, key=self.key, owner=plan.owner, session=self._session, shell=self._shell)

    # -- by itself ---------------------------------------------------------------------------------------------

    def before_cell(self, say: Callable[[str], None]) -> None:
        """Wait while too much waits to be written. A KeyboardInterrupt ends the waiting."""
        began = time.monotonic()
        self._burst.begins(began)
        if self._writer.has_room():
            return
        if not self._writer.wait_for_room(1.0):
            say("[remote GPU] This cell waits until earlier checkpoints are written.\n")
            while not self._writer.wait_for_room(0.5):
                pass
        self._pace.spent(time.monotonic() - began)

    def begins(self, code: str) -> Run | None:
        """A cell of the main shell is about to run."""
        try:
            run = self._run.begin(code, self._reads)
        except Exception:  # an object of the user's that cannot be looked at; the cell runs all the same
            self._run.missed()
            return None
        if run is not None and run.source:
            self._since.means(code, run.source)
        return run

    def ended(self, run: Run | None, *, number: int, silent: bool, shipped: bool, aside: str) -> None:
        """It has run; see ``CellsRun.ended``. None: something ran in another way."""
        if run is None:
            self._run.missed()
        else:
            self._run.ended(run, number=number, silent=silent, shipped=shipped, aside=aside)

    def ran(self, sources: Sequence[str], took_s: float, *, number: int, counts: bool) -> None:
        """Code of the user's has run; ``counts`` if as a cell: not what a front end asks silently."""
        self._since.ran(sources, number=number, counts=counts)
        if counts:
            self._fresh = True
            self._pace.cell(took_s)
            self._burst.ended(time.monotonic(), took_s)

    def background(self) -> None:
        """Something may have changed variables beside the cells: a callback of a widget, a cell of a subshell."""
        self._since.something_else()

    @property
    def wants_one(self) -> bool:
        """Whether enough cells have run since the last one."""
        return 0 < self._standing.status.every <= self._since.cells and self._stale is None

    def wait_s(self) -> float:
        """How long the checkpoint that is due waits for another cell to share it; asked after each message."""
        return self._burst.wait_s(time.monotonic()) if self.wants_one else 0.0

    def catch_up(self) -> None:
        """Take the checkpoint that waits for another cell: somebody is about to look at checkpoints."""
        if self.wants_one:
            self.between_messages()

    def between_messages(self) -> bool:
        """Take the checkpoint that is due. False: not now, so ask again when it is quiet."""
        if not self.wants_one:
            return not (self._standing.status.every and self._since.aside)
        if time.monotonic() < self._retry_s:
            return False
        at_stake = self._bytes_at_stake()
        expected_s = self._pace.expected_s(at_stake)
        if not self._pace.due(expected_s):
            self._put_off(expected_s)
            return False
        return self._automatic(at_stake, free=False)

    def is_fresh(self) -> bool:
        """Whether a cell has run since this was asked before."""
        fresh, self._fresh = self._fresh, False
        return fresh

    def quiet(self) -> None:
        """Nothing has happened for a while: take what was put off."""
        wanted = self.wants_one or (self._standing.status.every and self._since.aside and self._stale is None)
        if wanted and time.monotonic() >= self._retry_s:
            self._automatic(self._bytes_at_stake(), free=True)

    @property
    def quiet_s(self) -> float:
        """How long nothing must have happened before ``quiet`` is called."""
        return max(QUIET_S, 2 * self._pace.last_s, self._retry_s - time.monotonic())

    def _put_off(self, expected_s: float) -> None:
        if not self._fresh:
            return
        self._standing.change({"passed_over": 1})
        if not self._rarer_told:
            self._rarer_told = True
            remark = (
                f"not after every cell: a checkpoint holds up the next one for about {expected_s:.2g} s, "
                f"more than {self._plan.share:.0%} of the cells' time; taken when the session is quiet"
            )
            self._standing.change(remark=remark)
            self._standing.note("rarer", remark)

    def _automatic(self, looked: int, *, free: bool, asked: bool = False) -> bool:
        """Take one by itself that has to look at about so many bytes; ``free`` if it holds up no cell.

        False: it was given up, which is no failure. The user wants something else, a session that ends is interrupted
        first; or the writer has given up what this one counts on. What is not captured stays due. With ``asked``, the
        user's interrupt is raised: it is for what this belongs to.
        """
        began = time.monotonic()
        given_up = False
        try:
            self._begin()
        except KeyboardInterrupt:
            self._standing.put_off("it was interrupted")
            if asked:
                raise
            given_up = True
        except GivenUp:
            given_up = True
        except Exception as error:
            self._standing.failed(error)
            self._wait_longer()
        took_s = time.monotonic() - began
        if not self._warm:
            self._warm = True  # the first one imports and fills caches: it tells nothing of the next
            return not given_up
        self._pace.learned(took_s, looked)
        if not free:
            self._pace.spent(took_s)
            if self._rarer_told:
                self._rarer_told = False
                self._standing.change(remark="")
        return not given_up

    def _bytes_at_stake(self) -> int:
        """About how much the next capture has to look at."""
        tracker = self._checkpointer.tracker if self._checkpointer is not None else None
        if tracker is None:
            return 0
        space = self._shell.user_ns
        touched = self._touched(space)
        total = 0
        known: set[str] = set()
        for group in tracker.groups:
            known.update(group.names)
            if touched is None or not touched.isdisjoint(group.names):
                total += group.nbytes
        # Of what is new, arrays and the like can be asked at once.
        return total + sum(_own_bytes(value) for name, value in list(space.items()) if name not in known)

    def _begin(self, label: str = "", *, stands: bool = False) -> Job:
        """Capture into memory and hand it to the writer; ``stands`` as of ``Checkpointer.begin``."""
        if self._stale is not None:
            raise self._stale
        generation = self._writer.generation
        parent = self._parent if generation == self._parent_generation else self._committed
        space = self._shell.user_ns
        tracker = self._checkpointer.tracker if self._checkpointer is not None else None
        self._compares = tracker is not None and bool(tracker.groups) and not tracker.restored
        try:
            with self._giving_up.interruptible():
                touched = self._touched(space)
                pending = self.checkpointer.begin(
                    space,
                    parent=parent,
                    label=label,
                    cell=self._since.number,
                    epoch=self._epoch,
                    touched=touched,
                    source=self._since.source,
                    cells=self._records,
                    stop=self._giving_up.check,
                    stands=stands,
                )
        except BaseException:
            self._all_new()
            raise
        job = self._writer.submit(pending, generation)
        if job is None:
            # What it counts on was not written, so it must not be either.
            self._all_new()
            raise GivenUp(self._standing.status.problem or "the one before it could not be written.")
        self._parent, self._parent_generation = pending, generation
        self._since.captured()
        self._burst.captured(time.monotonic())
        self._standing.change(waiting=self._writer.waiting)
        return job

    def _records(self, changed: frozenset[str]) -> list[CellRecord]:
        """The session's cells, those that ran since the last capture included; called in its middle."""
        tracker = self.checkpointer.tracker
        groups = tracker.groups if tracker is not None else []
        lost = {name for group in groups if group.verdict.outcome == "lost" for name in group.names}
        names = {name: group.known.reads for group in groups for name in group.names if not name.startswith("<")}
        self._reads = {name: reads for name, reads in names.items() if name not in lost}
        try:
            return self._run.settle(
                changed if self._compares else None,
                frozenset(lost & names.keys()),
                [group.known for group in groups],
                beside=self._since.beside,
                names=names,
            )
        except Exception:  # the checkpoint is good without it
            self._run.missed()
            return self._run.settle(None, frozenset(), (), beside=False, names=names)

    def _touched(self, space: dict[str, Any]) -> frozenset[str] | None:
        """Names that may have changed since the last capture; None for all."""
        return self._since.touched(lambda sources: self.checkpointer.touched_by(sources, space).names)

    def _all_new(self) -> None:
        self._since.all_new()
        if self._checkpointer is not None:
            self._checkpointer.forget_changes()

    # -- in the writer's thread --------------------------------------------------------------------------------

    def _ended(self, job: Job) -> None:
        if job.error is not None:
            if isinstance(job.error, StaleEpoch):
                self._stale = job.error
            if isinstance(job.error, QuotaReached):
                self._tidying.full()
            if not isinstance(job.error, GivenUp):
                self._standing.failed(job.error)
                if not isinstance(job.error, BaseGone):
                    self._wait_longer()
            self._since.doubt()
            return
        checkpoint: Checkpoint = job.result
        self._committed = checkpoint
        self._pause_s, self._retry_s = PAUSE_S, 0.0
        self._standing.taken(checkpoint, self._writer.waiting)

    def _between(self) -> None:
        if self._checkpointer is not None and self._stale is None:
            self._tidying.act(self._checkpointer)

    def _wait_longer(self) -> None:
        self._retry_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)

    # -- what the user asks for --------------------------------------------------------------------------------

    def request(self, content: dict[str, Any]) -> Any:
        """Carry out what came as a message: ``content["op"]``."""
        op = content.get("op")
        self._standing.begins(at_once=True)
        self._giving_up.begin(str(content.get("request", "")))
        try:
            self._giving_up.check()  # while it waited for a cell to end, perhaps
            if op == "take":
                label, stands = str(content.get("label", "")), bool(content.get("stands"))
                return msgspec.to_builtins(self.take(label, self._tell_progress, stands=stands))
            if op == "restore":
                replay = content.get("replay", "safe")
                return msgspec.to_builtins(self.restore(str(content["checkpoint"]), self._tell_progress, replay))
            if op == "every":
                return msgspec.to_builtins(self.set_every(int(content["every"])))
            if op == "forget":
                return self.forget([str(each) for each in content["checkpoints"]])
            if op == "claim":
                return self.claim()
            if op == "outdated":
                return msgspec.to_builtins(self.outdated())
        finally:
            self._giving_up.end()
            self._standing.progress("")
        raise CheckpointError(f"op: {op!r} is unknown.")

    def stop_request(self, request: str) -> None:
        """Give up what came as this message, or is still to come; from any thread."""
        self._giving_up.stop_request(request)

    def _tell_progress(self, done: int, total: int) -> None:
        self._giving_up.check()
        if self._standing.is_time():
            self._standing.progress(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")

    def status(self) -> CheckpointStatus:
        """How the checkpoints stand."""
        return msgspec.structs.replace(self._standing.status, waiting=self._writer.waiting)

    def set_every(self, every: int) -> CheckpointStatus:
        """From now on after so many cells; 0 for none by itself."""
        self._standing.change(every=every)
        cause = f"after every {every} cells" if every > 1 else "after each cell" if every else "off"
        self._standing.note("every", cause)
        return self._standing.status

    def take(self, label: str = "", told: Told = lambda done, total: None, *, stands: bool = False) -> CheckpointView:
        """Take one now, and return when it is durable.

        Parameters
        ----------
        stands
            The session stands still and nobody waits to give this up: memory is written from where it is. Copies of
            it first would be as much again, in pages that are new to the machine.

        Raises
        ------
        CheckpointError
            It cannot be taken.
        KeyboardInterrupt
            It was given up.
        """
        job = self._begin(label, stands=stands)
        try:
            checkpoint: Checkpoint = wait(job, told)
        except BaseException:
            if stands:
                job.let_end()
            raise
        return view_of(checkpoint.manifest)

    def outdated(self) -> Outdated:
        """What of the checkpoint that the variables were last those of is mostly different by now."""
        tracker = self._checkpointer.tracker if self._checkpointer is not None else None
        base, last = self._committed, self._standing.status.last
        told = Outdated(
            checkpoint=base.id if base is not None else "",
            newest=last.id if last is not None else "",
            writing=self._writer.waiting > 0,
        )
        if base is None or tracker is None or told.writing or not (self._since.cells or self._since.beside):
            return told
        with self._giving_up.interruptible():
            parts = outdated(tracker, self._touched(self._shell.user_ns))
        return msgspec.structs.replace(told, parts=tuple(parts))

    def listed(self) -> list[CheckpointView]:
        """This session's checkpoints, oldest first; those that are being written are waited for."""
        self._await_writer()
        return [view_of(each.manifest) for each in self.checkpointer.checkpoints()]

    def _await_writer(self) -> None:
        """Wait until what was captured is in the store, and tell of what is not after ``WRITING_S``."""
        if not self._is_written():
            self._tell_doing(f"left out, as they are still being written: {self._writer.waiting}")

    def _is_written(self) -> bool:
        """Whether what was captured is in the store after ``WRITING_S``; a KeyboardInterrupt ends the waiting."""
        if not self._writer.waiting:
            return True
        with self._giving_up.interruptible():
            if self._writer.drain(1.0):
                return True
            self._tell_doing(f"waiting for checkpoints: {self._writer.waiting} being written")
            end_s = time.monotonic() + WRITING_S
            while not self._writer.drain(0.5) and time.monotonic() < end_s:
                self._giving_up.check()
        return not self._writer.waiting

    def find(self, name: str) -> Checkpoint:
        """One of this session's, or one of another session of the same owner by its id; raises NoSuchCheckpoint."""
        if name.startswith("-"):  # the newest may be on its way to the store
            self._await_writer()
        try:
            return self.checkpointer.find(name)
        except NoSuchCheckpoint:
            if name.startswith("-"):
                raise
            return Archive(self.checkpointer.store, key=self.key).find(name)

    def restore(self, name: str, told: Told = lambda done, total: None, replay: Replay = "safe") -> RestoreReport:
        """Make the variables those of a checkpoint. What they are now is captured first, if that is not done yet.

        Parameters
        ----------
        replay
            Which cells may run again for what could not be stored; see ``Checkpointer.restore``.

        Raises
        ------
        CheckpointError
            It cannot be restored; the variables are as they were.
        KeyboardInterrupt
            It was given up; the variables are as they were.
        """
        if replay not in REPLAYS:
            raise CheckpointError(f"replay: {replay!r} is none of {', '.join(REPLAYS)}.")
        began = time.monotonic()
        checkpoint = self.find(name)
        if self._standing.status.every and self._since.cells and time.monotonic() >= self._retry_s:
            self._automatic(self._bytes_at_stake(), free=True, asked=True)
        if not self._is_written():
            raise CheckpointError(
                "what the variables are now is still being written; they are as they were.",
                hint="`%remote_gpu checkpoints` shows when it is there.",
            )
        report = self._bring_back(self.checkpointer, checkpoint, told, replay)
        self._standing.change({"restores": 1}, restored=checkpoint.id)
        self._standing.note(
            "restored", f"the variables are those after cell {checkpoint.manifest.cell}", id=checkpoint.id
        )
        return msgspec.structs.replace(report, took_s=time.monotonic() - began)

    def take_over(self, checkpoint: str, ahead: Ahead, told: Told = lambda done, total: None) -> RestoreReport:
        """Make the variables of this new kernel those that the session had at its former host.

        Parameters
        ----------
        ahead
            Gives what the checkpoint needs; not used after this.

        Raises
        ------
        CheckpointError
            It cannot be restored.
        """
        checkpointer = self._checkpointer_on(ahead.cache)
        report = self._bring_back(checkpointer, checkpointer.load(checkpoint), told, "safe", ahead)
        # From here on, what is unchanged counts as written where the former host wrote it.
        with contextlib.suppress(StoreError):  # one that cannot be opened is tried again at the next capture
            checkpointer.store = self.checkpointer.store
            self._checkpointer = checkpointer
        return report

    def claim(self) -> dict[str, str]:
        """Make what the session begins with here its own newest checkpoint, and that of this host.

        It is what the next loss brings back; what former hosts of the session commit, the store refuses. Where that
        fails, the first checkpoint that is taken here does it; the session begins all the same.
        """
        if self._committed is None:
            return {}
        try:
            claimed = self.checkpointer.claim(self._committed, epoch=self._epoch)
        except (CheckpointError, StaleEpoch) as error:
            if isinstance(error, StaleEpoch):
                self._stale = error
            self._standing.failed(error)
            return {}
        self._parent = self._committed = claimed
        return {"checkpoint": claimed.id}

    def _bring_back(
        self,
        checkpointer: Checkpointer,
        checkpoint: Checkpoint,
        told: Told,
        replay: Replay,
        ahead: Ahead | None = None,
    ) -> RestoreReport:
        began = time.monotonic()
        self._standing.begins()
        space = self._shell.user_ns
        try:
            with self._giving_up.interruptible():
                back = bring_back(
                    checkpointer, checkpoint, space, told=told, replay=replay, running=self._runs_again, ahead=ahead
                )
        except BaseException:
            self._all_new()
            raise
        self._run.follow(back.cells, checkpoint.manifest.cell, space, back.unsure)
        self._reads = {}
        self._parent, self._parent_generation = checkpoint, self._writer.generation
        self._committed = checkpoint
        self._since.restored(checkpoint.manifest.cell)
        back.say_why_lost(space)
        return back.report(time.monotonic() - began)

    def _runs_again(self, cell: CellRecord) -> None:
        """A cell is about to run once more."""
        self._giving_up.check()
        self._giving_up.replaying = True
        if self._standing.is_time():
            self._tell_doing(f"cell {cell.number} runs again")

    def _tell_doing(self, what: str) -> None:
        """Tell what takes long: in the cell that asked, or through the service."""
        if self._giving_up.request:
            self._standing.progress(what)
        else:
            print(f"[remote GPU] {what}", file=sys.stderr)

    def restore_new(self, name: str, session: str) -> NoReturn:
        """Not from here: the kernel holds no token of the service's."""
        checkpoint = short_id(self.find(name).id)
        raise CheckpointError(
            "a session cannot make another one.",
            hint=f"On your own machine: jupyter gpuaas restore {self._session[:12]} {checkpoint} --new NAME",
        )

    def diff(self, one: str, other: str) -> CheckpointDiff:
        """Names that differ between two checkpoints."""
        found = self.checkpointer.diff(self.find(one), self.find(other))
        return CheckpointDiff(added=found.added, removed=found.removed, changed=found.changed)

    def forget(self, names: Sequence[str]) -> list[str]:
        """Remove checkpoints; the newest one stays, as what is unchanged since then lies only there."""
        found = [self.find(name) for name in names]
        newest = self.checkpointer.checkpoints()[-1:]
        for checkpoint in found:
            if newest and checkpoint.id == newest[0].id:
                raise CheckpointError(f"{short_id(checkpoint.id)} is the newest checkpoint of this session, and stays.")
        for checkpoint in found:
            self.checkpointer.forget(checkpoint)
        self._standing.change({"forgotten": len(found)})
        self._standing.note("forgotten")
        self._tidying.soon()
        return [checkpoint.id for checkpoint in found]

    def close(self, timeout_s: float) -> None:
        """The kernel ends: write what waits, as far as the time allows."""
        self._writer.close(timeout_s)
        if self._checkpointer is not None:
            self._checkpointer.store.close()


def _own_bytes(value: Any) -> int:
    """Bytes of an array or a tensor; 0 for anything else."""
    if type(value).__module__.partition(".")[0] not in ("numpy", "torch", "cupy"):
        return 0
    found = getattr(value, "nbytes", 0)
    return found if isinstance(found, int) else 0
