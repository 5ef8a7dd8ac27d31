"""The process that calls the CUDA driver for a session's host.

The driver wants its caller to have called ``cuInit``, which takes seconds and then lasts as long as the process does.
So there is one per host, and it stays; should it die, the next request starts another. Requests and answers are JSON
lines, each with an ``id``; several are served at the same time.

    python -m jupyter_gpuaas.image.cuda_helper
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from ..errors import DeviceRefused, GpuaasError, ImageUnavailable
from .cuda import CudaDriver, DeviceMeter, Pairs, Suspended, load_driver, resume, suspend
from .cuda_meter import NvmlMeter, host_free_bytes
from .cuda_states import ProcessState

#: Processes that are suspended or resumed at the same time.
THREADS = 8
COMMAND = (sys.executable, "-m", "jupyter_gpuaas.image.cuda_helper")
ENDED = "the CUDA helper of this session has ended."


class Request(msgspec.Struct, frozen=True):
    id: int
    op: str
    pid: int = 0
    timeout_ms: int = 0
    #: UUIDs in hex.
    needs: dict[str, int] = {}
    pairs: tuple[tuple[str, str], ...] = ()


class Answer(msgspec.Struct, frozen=True):
    id: int
    error: str = ""
    code: int = 0
    state: int = 0
    bytes: dict[str, int] = {}


class Served:
    """What the process does with a request."""

    def __init__(self, driver: CudaDriver, meter: DeviceMeter) -> None:
        self._driver = driver
        self._meter = meter

    def answer(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except DeviceRefused as error:
            return Answer(request.id, str(error), error.code)
        except GpuaasError as error:
            return Answer(request.id, str(error))

    def _answer(self, request: Request) -> Answer:
        if request.op == "state":
            return Answer(request.id, state=int(self._driver.state(request.pid)))
        if request.op == "free":
            return Answer(request.id, bytes=_to_hex(self._meter.free_bytes()))
        if request.op == "used":
            return Answer(request.id, bytes=_to_hex(self._meter.used_bytes(request.pid)))
        if request.op == "suspend":
            done = suspend(
                self._driver,
                self._meter,
                request.pid,
                timeout_ms=request.timeout_ms,
                host_free_bytes=host_free_bytes(),
            )
            return Answer(request.id, bytes=_to_hex(done.needs))
        if request.op == "resume":
            needs = {bytes.fromhex(device): size for device, size in request.needs.items()}
            pairs = [(bytes.fromhex(old), bytes.fromhex(new)) for old, new in request.pairs]
            resume(self._driver, self._meter, Suspended(request.pid, needs), pairs)
            return Answer(request.id)
        return Answer(request.id, f"op: {request.op!r} is unknown.")


def serve(served: Served) -> None:
    """Answer requests of standard input until it ends."""
    writing = threading.Lock()

    def work(request: Request) -> None:
        line = msgspec.json.encode(served.answer(request)) + b"\n"
        with writing:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    decoder = msgspec.json.Decoder(Request)
    with ThreadPoolExecutor(THREADS, "cuda") as pool:
        for line in sys.stdin.buffer:
            pool.submit(work, decoder.decode(line))


class CudaHelper:
    """The far end: the helper of this host. Made by ``start``."""

    def __init__(self, command: Sequence[str], process: asyncio.subprocess.Process) -> None:
        self._command = command
        self._ids = itertools.count(1)
        self._starting = asyncio.Lock()
        self._is_closed = False
        self._begin(process)

    def _begin(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._reading = asyncio.create_task(self._read(process, self._waiting))

    @classmethod
    async def start(cls, command: Sequence[str] = COMMAND) -> CudaHelper:
        """Start it; returns when it has a driver. Raises ``ImageUnavailable`` with the reason when there is none."""
        return cls(command, await _started(command))

    @property
    def pid(self) -> int:
        """Of the helper itself, as it is now."""
        return self._process.pid

    async def state(self, pid: int) -> ProcessState:
        return ProcessState((await self._ask(Request(0, "state", pid))).state)

    async def uses_device(self, pid: int) -> bool:
        """Whether the driver knows this process. Raises ``DeviceRefused`` where that cannot be told."""
        try:
            await self.state(pid)
        except DeviceRefused as error:
            # One that is not known is refused by the driver itself, and has no memory on any device.
            if not error.code:
                raise
            if used := (await self._ask(Request(0, "used", pid))).bytes:
                told = f"process {pid} has {sum(used.values())} bytes on devices, and yet: {error.message}"
                raise DeviceRefused(told, code=error.code) from error
            return False
        return True

    async def free_bytes(self) -> dict[bytes, int]:
        return _from_hex((await self._ask(Request(0, "free"))).bytes)

    async def suspend(self, pid: int, timeout_ms: int) -> Suspended:
        """As ``cuda.suspend``."""
        answer = await self._ask(Request(0, "suspend", pid, timeout_ms))
        return Suspended(pid, _from_hex(answer.bytes))

    async def resume(self, suspended: Suspended, pairs: Pairs = ()) -> None:
        """As ``cuda.resume``."""
        told = tuple((old.hex(), new.hex()) for old, new in pairs)
        await self._ask(Request(0, "resume", suspended.pid, needs=_to_hex(suspended.needs), pairs=told))

    async def close(self) -> None:
        self._is_closed = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _ask(self, request: Request) -> Answer:
        request = msgspec.structs.replace(request, id=next(self._ids))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._reading.done():
            await self._start_again()
        self._waiting[request.id] = future
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        answer = await future
        if answer.error:
            raise DeviceRefused(answer.error, code=answer.code)
        return answer

    async def _start_again(self) -> None:
        """Start another one in the place of one that has died; the driver knows its processes as before."""
        async with self._starting:
            if not self._reading.done():
                return
            if self._is_closed:
                raise DeviceRefused(ENDED)
            await self._process.wait()
            try:
                self._begin(await _started(self._command))
            except ImageUnavailable as error:
                raise DeviceRefused(f"{ENDED} Another cannot be started: {error.message}") from error

    @staticmethod
    async def _read(process: asyncio.subprocess.Process, waiting: dict[int, asyncio.Future[Answer]]) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = msgspec.json.decode(line, type=Answer)
            future = waiting.pop(answer.id, None)
            if future is not None and not future.done():
                future.set_result(answer)
        for future in waiting.values():
            if not future.done():
                future.set_exception(DeviceRefused(ENDED))
        waiting.clear()


async def _started(command: Sequence[str]) -> asyncio.subprocess.Process:
    """Its process, when it has a driver. Raises ``ImageUnavailable`` with the reason when there is none."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    first = msgspec.json.decode(line, type=Answer) if line else Answer(0, "the CUDA helper ended at once.")
    if first.error:
        await process.communicate()
        raise ImageUnavailable(first.error)
    return process


def _to_hex(sizes: dict[bytes, int]) -> dict[str, int]:
    return {device.hex(): size for device, size in sizes.items()}


def _from_hex(sizes: dict[str, int]) -> dict[bytes, int]:
    return {bytes.fromhex(device): size for device, size in sizes.items()}


def ready(error: str = "") -> None:
    """The first line: whether there is a driver."""
    sys.stdout.buffer.write(msgspec.json.encode(Answer(0, error)) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    try:
        served = Served(load_driver(), NvmlMeter())
    except ImageUnavailable as error:
        ready(str(error))
        return
    ready()
    serve(served)


if __name__ == "__main__":
    main()
