"""The kernels of one host: as plain processes, in the command or under the user that the settings name, or in jails."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import Settings
from ..errors import ImageUnavailable
from ..image.criu import Criu
from ..image.cuda_helper import CudaHelper
from ..image.image_kernel import ImageKernel, ImageKernelHandler
from ..image.jail import HOME, JailSpec
from ..image.pack import Origin
from ..model import CheckpointPlan, HostSpec, Peer
from ..state.listing import owners_address
from ..wire.memory import MALLOC_HUGE_PAGES, MALLOC_VARIABLE
from .dial import Dialler
from .jailed_kernel import JailedKernel, jail_spec, path_inside
from .kernel_launch import Launch, check_reachable, give_tree, is_plain, launch_of, let_through, top_of
from .kernel_process import Kernel, KernelProcess
from .processes import RUN_MARK

#: Of a kernel's environment, where the node's says nothing else. Threads of OpenBLAS's that have nothing to do sleep
#: after they have looked for work for 2^18 cycles (0.1 ms). With their own 2^26, each import of numpy keeps the node's
#: other cores busy for 0.1 s, also in a kernel for a session that arrives (docs/benchmarks.md).
DEFAULTS = {"OPENBLAS_THREAD_TIMEOUT": "18"}


class KernelMaker:
    """Starts kernels, before there is a session and for it.

    Parameters
    ----------
    run_folder
        Of the host; each kernel has a folder of its own in it.
    images
        Where there is room for the images of the host's kernels, and for what they keep in their own folders.
    sessions
        The node's folder of its sessions' folders.
    criu
        With it, kernels are started in jails, so that they can be put into images.
    handler
        Who hears what they say.
    log
        Descriptor for what they print before they can say anything.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_id: str,
        run_folder: Path,
        node: str,
        sessions: Path,
        images: Path,
        criu: Criu | None,
        handler: ImageKernelHandler,
        log: int,
    ) -> None:
        #: None where kernels are not started in jails, or where it has turned out that they cannot be.
        self.criu = criu
        #: Where the session works.
        self.work = run_folder
        self._spec: HostSpec | None = None
        self._settings = settings
        self._run_id = run_id
        self._run_folder = run_folder
        self._node = node
        self._sessions = sessions
        self._images = images
        self._handler = handler
        self._log = log

    def belong_to(self, spec: HostSpec, work: Path) -> None:
        """They are a session's from now on, which works in this folder."""
        self._spec, self.work = spec, work

    async def new(self) -> Kernel:
        """A kernel that answers.

        Raises
        ------
        RuntimeError, OSError, SettingError
            There can be none.
        """
        settings, environ = self._settings, self._environment()
        folder = self.folder()
        if self.criu is not None:
            # Without the mark: a process that goes on at another node would be taken for one of this host, whose end
            # its jail does not survive anyway.
            unmarked = {name: value for name, value in environ.items() if name != RUN_MARK}
            try:
                starting = ImageKernel.start(
                    self._jail(folder),
                    unmarked,
                    self._handler,
                    criu=self.criu,
                    log=self._log,
                    timeout_s=settings.start_timeout_s,
                )
                return JailedKernel(await starting)
            except ImageUnavailable as error:
                self._handler.kernel_logged(f"this kernel cannot be put into an image: {error}\n")
                self.criu = None
        launch = self._launch(folder)
        kernel = KernelProcess(folder, launch.environment(environ, settings, folder), self._log, self._handler, launch)
        try:
            await kernel.start(settings.start_timeout_s)
        except BaseException:
            kernel.kill()
            raise
        return kernel

    async def of_image(
        self, image: str, origin: Origin, key: bytes, *, cuda: CudaHelper | None, onto: Sequence[bytes]
    ) -> JailedKernel:
        """The kernel of an image, stopped.

        Parameters
        ----------
        onto
            Devices that the session has here.

        Raises
        ------
        ImageError, StoreError, CheckpointError, TransportError
            It cannot be made here; nothing is left of it.
        """
        if self.criu is None:
            raise ImageUnavailable("this node makes no process images.")
        jail = self._jail(self.folder())
        restored = await ImageKernel.restore(
            jail, self._handler, criu=self.criu, origin=origin, image_id=image, key=key, cuda=cuda, onto=onto
        )
        return JailedKernel(restored)

    def folder(self) -> Path:
        """A new one for a kernel."""
        folder = self._run_folder / f"{time.monotonic_ns() % 10**9:x}"
        folder.mkdir(mode=0o700)
        return folder

    def inside(self, kernel: Kernel) -> Path | None:
        """The working folder as the kernel sees it; None if it does not."""
        if not isinstance(kernel, JailedKernel):
            return self.work
        inside = path_inside(self.work, kernel.image.jail.spec)
        return Path(inside) if inside is not None else None

    async def way_of(self, kernel: Kernel, peer: Peer, dialler: Dialler) -> Peer:
        """The way to a source for a kernel, which has no certificate."""
        folder = kernel.data_socket.parent
        user = self._launch(folder).user
        return await dialler.way(
            peer,
            folder,
            seen_as=Path(HOME) if isinstance(kernel, JailedKernel) else None,
            owner=user.owner if user is not None else None,
        )

    # -- another user ------------------------------------------------------------------------------------------

    def make_way(self, folder: Path, own: Path, plan: CheckpointPlan | None) -> None:
        """Let the kernel's user, where that is another one, have what is the session's.

        Parameters
        ----------
        folder, own
            The session's, and its own working folder in it.
        """
        if not self._settings.kernel_user:
            return
        user = self._launch(self._run_folder).user
        assert user is not None
        top = top_of(self._sessions.parent, self._settings)
        check_reachable(user, [top, sys.executable, __file__])
        let_through(folder, top)
        give_tree(own, user)
        if plan is not None and "://" not in plan.store:
            part = Path(owners_address(plan.store, plan.owner)).expanduser()
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            let_through(part.parent, self._settings.folder)
            if part.stat().st_uid != user.uid:
                give_tree(part, user)

    def given(self, bring: Callable[[Peer], int], own: Path) -> Callable[[Peer], int]:
        """Files that come become those of the kernel's user."""
        user = self._launch(self._run_folder).user
        if user is None:
            return bring

        def brought(peer: Peer) -> int:
            count = bring(peer)
            give_tree(own, user)
            return count

        return brought

    # -- inside ------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("GPUAAS_", "JPY_"))}
        if environ.get(MALLOC_VARIABLE) == MALLOC_HUGE_PAGES:
            del environ[MALLOC_VARIABLE]  # a host's own; how a cell allocates is the user's matter
        return DEFAULTS | environ | {RUN_MARK: self._run_id, "GPUAAS_HOME": self._settings.home}

    def _launch(self, folder: Path) -> Launch:
        """How a kernel in this folder is started; raises SettingError where that cannot be."""
        settings = self._settings
        if is_plain(settings):
            return Launch()
        known = {
            "folder": str(folder),
            "home": str(settings.folder),
            "node": self._node,
            "sessions": str(self._sessions),
            "store": settings.checkpoint_store or str(settings.folder / "checkpoints"),
        }
        if self._spec is not None:
            known |= {"owner": self._spec.owner, "session": self._spec.session_id, "work": str(self.work)}
        return launch_of(settings, **known)

    @property
    def images(self) -> Path:
        """Where there is room for images, and which nobody else can enter.

        Raises
        ------
        ImageUnavailable
            It cannot be made.
        """
        try:
            self._images.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ImageUnavailable(
                f"there is no place for images: {error}.", hint="Setting image_folder names another one."
            ) from error
        return self._images

    def forget_images(self) -> None:
        """Remove what may be left there; the host ends."""
        shutil.rmtree(self._images, ignore_errors=True)

    def _jail(self, folder: Path) -> JailSpec:
        store = self._settings.checkpoint_store
        needed = [str(self._settings.folder), sys.prefix, *([store] if store and "://" not in store else [])]
        return jail_spec(folder, self._sessions, needed, self.images / folder.name)
