"""A session that is to go on, and is refused its devices, or finds its kernel gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jupyter_gpuaas.errors import DeviceRefused, MigrationError, StoreError
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.model import Channel, HostState, Imaged, Peer
from jupyter_gpuaas.node.image_standby import ImageStandby
from jupyter_gpuaas.node.jailed_kernel import JailedKernel
from jupyter_gpuaas.node.kernel_process import Kernel
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.record import Buffer, Kind, Record, RecordReader
from tests.service import eventually
from tests.unit.test_session_host import close, make_host


class Image:
    """A kernel in a jail, with memory on a device that has ``room`` for it or has not."""

    alive = connected = True

    def __init__(self) -> None:
        self.room = True
        self.frozen = self.halted = False
        self.pid = 4711
        self.sent: list[str] = []

    async def freeze(self) -> None:
        self.frozen = self.halted = True

    async def thaw(self) -> None:
        self.frozen = False
        if not self.room:
            raise DeviceRefused("the device has no room.")
        self.halted = False

    async def ask(self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = "") -> Any:
        return {"busy": "", "done": True}

    def send(self, channel: Channel, parts: list[Buffer]) -> None:
        self.sent.append(channel.value)

    def take_outputs(self) -> None: ...

    def remind(self) -> None: ...


class Session:
    """A session's host, and its kernel."""

    def __init__(self, folder: Path) -> None:
        self.host = make_host(folder)
        self.image = Image()
        self.kernel: Kernel = JailedKernel(cast(ImageKernel, self.image))
        self.host.kernel_ready(self.kernel)

    async def take_image(self, kernel: Kernel) -> Imaged:
        await self.image.freeze()
        return Imaged(image="i", image_bytes=1, took_s=0.0)

    def run_cell(self) -> None:
        parts = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
        link = cast(Any, SimpleNamespace())
        self.host.requests_received(link, [Record(Kind.SHELL, 1, 0, tuple(parts))])

    async def told(self) -> str:
        await self.host.settled()
        journal, reader = self.host.journal, RecordReader(1 << 20)
        records = [record for piece in journal.copy(journal.first - 1).pieces() for record in reader.feed(piece)]
        return "".join(bytes(record.parts[4]).decode() for record in records if record.kind is Kind.IOPUB)

    async def gets_its_devices_back(self) -> None:
        """When they are asked for again and again, and have room at last."""
        report = self.host.report()
        assert report.suspended and "has not been given back" in report.warning
        assert "could not be given back" in await self.told()
        self.run_cell()
        with pytest.raises(DeviceRefused):
            await self.host.without_devices.go_on(("d",))
        assert self.host.report().warning.endswith("the device has no room")
        assert self.host.report().suspended and self.image.sent == []
        self.image.room = True
        await self.host.without_devices.go_on(("d",))
        assert not self.host.report().suspended and self.host.report().warning == ""
        assert not self.image.halted and self.image.sent == ["shell"]
        assert "has the memory of its devices back" in await self.told()
        self.host.kernel = None
        await close(self.host)


@pytest.fixture
async def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


async def test_after_an_image_that_came_to_nothing(session: Session) -> None:
    async def fails(kernel: Kernel) -> Imaged:
        # As ``ImageKernel.finish_image`` does.
        await session.image.freeze()
        session.image.room = False
        with pytest.raises(DeviceRefused):
            await session.image.thaw()
        raise StoreError("the store is full.")

    with pytest.raises(StoreError):
        await session.host.standstill.take_image(fails)
    await session.gets_its_devices_back()


@pytest.mark.parametrize("handed_over", [False, True])
async def test_after_a_move_that_was_led_back(session: Session, handed_over: bool) -> None:
    standstill = session.host.standstill
    await standstill.take_image(session.take_image)
    if handed_over:
        await standstill.hand_over()
    session.image.room = False
    await standstill.resume()
    await standstill.resume()
    # Whoever has stopped it is told that it goes on, once.
    await eventually(lambda: standstill.goes_on)
    await session.gets_its_devices_back()


@pytest.fixture
async def there(session: Session, tmp_path: Path) -> AsyncIterator[tuple[Session, ImageStandby]]:
    """The host that the session moves to, and has everything by now; the former one is closed."""
    await session.host.standstill.take_image(session.take_image)
    await session.host.standstill.hand_over()
    (tmp_path / "there").mkdir()
    made = Session(tmp_path / "there")
    made.host.stands_by = True
    await made.image.freeze()
    standby = ImageStandby(
        made.host,
        Peer(url="", ticket=""),
        1,
        ready=cast(Any, None),
        fetch_files=cast(Any, None),
        folder=tmp_path,
        restore=cast(Any, None),
        moved=dict,
    )
    standby._loaded, standby._handover = True, session.host.standstill.handover
    session.host.kernel = None
    await close(session.host)
    yield made, standby


async def test_after_a_move_to_another_host(there: tuple[Session, ImageStandby]) -> None:
    session, standby = there
    session.image.room = False
    await standby.live()
    assert session.host.state is HostState.IDLE and session.host.is_here
    await session.gets_its_devices_back()


async def test_kernel_that_was_killed_before_it_went_on_does_not_become_the_sessions(
    there: tuple[Session, ImageStandby],
) -> None:
    session, standby = there
    session.image.pid = 0
    for _ in range(2):
        with pytest.raises(MigrationError, match="is gone"):
            await standby.live()
    assert session.host.stands_by and session.image.frozen
    session.host.kernel = None
    await close(session.host)
