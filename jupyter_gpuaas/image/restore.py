"""From an image to a stopped tree in a jail of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from ..errors import ImageError, NotRestorableHere
from .criu import Criu, restore_arguments
from .dump import why
from .jail import HOME, IMAGES, ROOT_PID, Jail, JailSpec
from .manifest import ImageManifest, ImageWorld, check_world, validate_image
from .pack import Origin, unpack_scratch

#: CRIU's own processes get numbers above those of the tree.
CRIU_PIDS = 300
#: How long it may take, and what is added for its bytes.
RESTORE_S = 60.0
SLOWEST_BYTES_S = 20e6


async def read_manifest(origin: Origin, image_id: str, key: bytes) -> ImageManifest:
    """The verified manifest of an image. Raises ``NoSuchCheckpoint`` and ``ManifestError``s."""
    data = await asyncio.to_thread(origin.manifest, image_id)
    return validate_image(data, key, expected_id=image_id)


def check_spec(manifest: ImageManifest, spec: JailSpec) -> None:
    """Raise ``NotRestorableHere`` unless the jail is to show what the tree knows."""
    lacking = sorted(set(manifest.binds) - {bind.inside for bind in spec.binds})
    if lacking:
        raise NotRestorableHere(f"the jail has no {', '.join(lacking)}, which the processes know.")
    if spec.scratch != manifest.scratch:
        raise NotRestorableHere(f"the jail's own folders are {spec.scratch}, those of the image {manifest.scratch}.")


async def restore_tree(manifest: ImageManifest, spec: JailSpec, criu: Criu, origin: Origin) -> Jail:
    """Make a jail with the tree of the image, stopped.

    Parameters
    ----------
    spec
        Its folder must not hold anything of another jail; the working folder and what else is bound must have the
        content that it had when the image was made.

    Raises
    ------
    WorldMismatch, NotRestorableHere, StoreError, TransportError, ImageUnavailable
        There is no tree, and nothing of it is left.
    """
    check_world(manifest.world, ImageWorld.here())
    check_spec(manifest, spec)
    folder = spec.images / manifest.id
    try:
        # Verified to its last byte before CRIU is started.
        await asyncio.to_thread(origin.bring, manifest, folder)
        jail = await Jail.start(spec, None, dict(os.environ), last_pid=_free_pids(manifest.last_pid))
        try:
            await asyncio.to_thread(unpack_scratch, jail.root, spec.scratch, folder)
            place = f"{manifest.rounds - 1}"
            command = restore_arguments(criu, folder=f"{HOME}/{IMAGES}/{manifest.id}/{place}")
            limit_s = RESTORE_S + manifest.content_bytes / SLOWEST_BYTES_S
            restoring = asyncio.ensure_future(jail.run(command))
            if not (await asyncio.wait({restoring}, timeout=limit_s))[0]:
                jail.kill()  # CRIU is in it, and so is all that it has made
                await restoring
                raise NotRestorableHere(
                    "CRIU does not come to its end: it waits for a lock on a file, probably, which the source holds."
                )
            status, output = restoring.result()
            if status != 0:
                raise NotRestorableHere(f"CRIU cannot restore the session: {why(folder / place, output, status)}.")
            if not any(process.inner_pid == ROOT_PID for process in jail.processes()):
                raise NotRestorableHere("the processes ended as soon as they were restored.")
            await jail.stop_tree()
        except BaseException:
            await jail.end()
            raise
    except OSError as error:
        raise ImageError(f"the image cannot be written to {folder}: {error}.") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)
    return jail


def _free_pids(last_pid: int) -> int:
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    return last_pid + 1 if last_pid + CRIU_PIDS < most else 0
