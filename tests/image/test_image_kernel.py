"""A kernel is dumped in the middle of a cell and goes on elsewhere: real CRIU, real kernels."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.errors import ChunkCorrupt, ManifestError, NotDumpable, NotRestorableHere
from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.dump import ImageName
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.jail import HOME
from jupyter_gpuaas.image.manifest import references
from jupyter_gpuaas.image.pack import StoredImage
from jupyter_gpuaas.image.sockets import look
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.store import FolderStore, MemoryStore

from .cells import Client, copy_work, spec, start

KEY = b"k" * 32
LINES = 20_000
MOVES = 5


async def move(kernel: ImageKernel, client: Client, criu: Criu, source: Path, target: Path) -> ImageKernel:
    """Dump, copy, restore, and end the source only then."""
    store = MemoryStore()
    await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    copy_work(source, target)
    moved = await ImageKernel.restore(
        spec(target), client, criu=criu, origin=StoredImage(store), image_id="image", key=KEY
    )
    await moved.thaw()
    await kernel.end()
    return moved


async def test_outputs_of_a_running_cell_while_it_is_moved_five_times_come_once_and_in_order(
    criu: Criu, tmp_path: Path
) -> None:
    client = Client()
    kernel = await start(tmp_path / "0", client, criu)
    (tmp_path / "0" / "work" / "goal").write_text("0")
    cell = client.begin(
        kernel,
        f"""
for i in range({LINES}):
    print("line", i)
    while i >= int(open("goal").read() or 0):  # the cell is still running at each move
        pass
""",
    )
    for number in range(MOVES):
        source, target = tmp_path / str(number), tmp_path / str(number + 1)
        # It prints as fast as it can while it is dumped, and cannot end before the last move.
        begin, end = (LINES * (number + more) // (MOVES + 1) for more in (0, 1))
        (source / "work" / "goal").write_text(str(end))
        await client.until(lambda begin=begin: client.text.count("\n") > begin)  # type: ignore[misc]
        kernel = await move(kernel, client, criu, source, target)
    (tmp_path / str(MOVES) / "work" / "goal").write_text(str(LINES))
    await client.finish(cell)
    await client.until(lambda: client.text.count("\n") >= LINES)
    assert client.text.splitlines() == [f"line {i}" for i in range(LINES)]
    await kernel.end()


async def test_everything_in_a_process_goes_along(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    source, target = tmp_path / "a", tmp_path / "b"
    kernel = await start(source, client, criu)
    await client.run(
        kernel,
        """
import multiprocessing.shared_memory, os, subprocess, tempfile, threading, time
import numpy as np
array = np.arange(1_000_000)
def numbers():
    for number in range(10**9):
        yield number
generator = numbers()
assert [next(generator) for _ in range(3)] == [0, 1, 2]
ticks = [0]
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
shared = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 20)
shared.buf[:5] = b"hello"
named = tempfile.NamedTemporaryFile()
named.write(b"kept"); named.flush()
unnamed = tempfile.TemporaryFile()
unnamed.write(b"also"); unnamed.flush()
lock = threading.Lock(); lock.acquire()
before = (os.getpid(), id(array), time.monotonic())
""",
    )
    cell = client.begin(
        kernel,
        """
with open("log.txt", "w") as log:
    log.write("entered\\n"); log.flush()
    print("inside")
    while not os.path.exists("go"):
        pass
    log.write("left\\n")
print("outside", log.closed, open("log.txt").read().split())
""",
    )
    await client.until(lambda: "inside" in client.text)
    moved = await move(kernel, client, criu, source, target)
    (target / "work" / "go").touch()
    await client.finish(cell)
    await client.run(
        moved,
        """
seen = ticks[0]
deadline = time.monotonic() + 30
while ticks[0] == seen and time.monotonic() < deadline:
    pass
child.stdin.write(b"echo"); child.stdin.close()
named.seek(0); unnamed.seek(0)
print(next(generator), int(array.sum()), ticks[0] > seen, child.stdout.read(), child.wait())
print(bytes(shared.buf[:5]), named.read(), open(named.name, "rb").read(), unnamed.read(), lock.locked())
print((os.getpid(), id(array)) == before[:2], 0 < time.monotonic() - before[2] < 60)
shared.close(); shared.unlink()
""",
    )
    await client.until(lambda: client.text.count("\n") >= 5)
    assert client.text.splitlines() == [
        "inside",
        "outside True ['entered', 'left']",
        f"3 {sum(range(1_000_000))} True b'echo' 0",
        "b'hello' b'kept' b'kept' b'also' True",
        "True True",
    ]
    assert (source / "work" / "log.txt").read_text() == "entered\n"
    await moved.end()


#: What is set up, and what must hold afterwards.
ALONG = {
    "a pool of forked workers": (
        "import multiprocessing as mp; pool = mp.get_context('fork').Pool(2)",
        "pool.map(abs, [-3, -4]) == [3, 4]; pool.terminate(); pool.join()",
    ),
    "workers of a data loader": (
        "import torch; from torch.utils.data import DataLoader\n"
        "loader = iter(DataLoader(torch.arange(30), num_workers=2, batch_size=10)); assert next(loader)[0] == 0",
        "[batch[0].item() for batch in loader] == [10, 20]",
    ),
    "System V memory": (
        "import ctypes; libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p\n"
        "number = libc.shmget(1234, 4096, 0o1600); there = libc.shmat(number, None, 0)\n"
        "ctypes.memmove(there, b'sysv', 4)",
        "(ctypes.string_at(there, 4), libc.shmget(1234, 4096, 0o600)) == (b'sysv', number)",
    ),
    "a terminal": (
        "import pty; master, slave = pty.openpty(); os.write(master, b'hi\\n')",
        "os.read(slave, 9) == b'hi\\n'",
    ),
    "an orphan": (
        "import subprocess\nsubprocess.run('setsid sleep 600 &', shell=True)",
        "subprocess.run(['pgrep', '-xc', 'sleep'], capture_output=True).stdout == b'1\\n'",
    ),
    "a lock of a file": (
        "import fcntl; mine = open('lock', 'w'); fcntl.flock(mine, fcntl.LOCK_EX)",
        "subprocess.run(['flock', '-n', 'lock', 'true']).returncode == 1",
    ),
    "a file that has no name": (
        "gone = open('gone', 'w+'); gone.write('abc'); gone.flush(); os.unlink('gone')",
        "(gone.seek(0), gone.read()) == (0, 'abc')",
    ),
    "a file under another name": (
        "moved = open('one', 'w+'); moved.write('abc'); moved.flush(); os.link('one', 'two'); os.unlink('one')",
        "(moved.seek(0), moved.read()) == (0, 'abc') and 'one' not in os.listdir()",
    ),
    "a mapped file": (
        "import mmap; file = open('map', 'wb+'); file.truncate(8192); mapped = mmap.mmap(file.fileno(), 8192)",
        "mapped.__setitem__(slice(3), b'xyz') or mapped.flush() or open('map', 'rb').read(3) == b'xyz'",
    ),
    "a watch on a folder": (
        "libc = ctypes.CDLL(None); watch = libc.inotify_init(); libc.inotify_add_watch(watch, b'.', 0x100)",
        "open('new', 'w').close() or len(os.read(watch, 1000)) > 0",
    ),
    "a timer": (
        "import asyncio, time\nbegun = time.monotonic(); timer = asyncio.ensure_future(asyncio.sleep(1, 'rang'))",
        "(await timer, time.monotonic() - begun < 60) == ('rang', True)",
    ),
    "a database that is opened again": (
        "import sqlite3; base = sqlite3.connect('x.db'); base.execute('create table t (a)'); base.commit()",
        "base.close() or sqlite3.connect('x.db').execute('insert into t values (3)').rowcount == 1",
    ),
}


async def test_what_processes_can_have_goes_along(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    await client.run(kernel, "import os")
    for before, _ in ALONG.values():
        await client.run(kernel, before)
    moved = await move(kernel, client, criu, tmp_path / "a", tmp_path / "b")
    lost = {}
    for what, (_, after) in ALONG.items():
        condition, _, rest = after.partition(";")
        cell = client.begin(moved, f"assert {condition}\n{rest.strip()}")
        await client.until(lambda cell=cell: cell in client.replies)  # type: ignore[misc]
        if client.replies[cell]["status"] != "ok":
            lost[what] = client.errors[-1]
    assert lost == {}
    await moved.end()


async def test_dump_of_a_session_with_an_outside_connection_is_refused_and_the_cell_goes_on(
    criu: Criu, tmp_path: Path
) -> None:
    client = Client()
    kernel = await start(tmp_path, client, criu)
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(kernel.jail.spec.folder, os.O_PATH)
        listener.bind(f"/proc/self/fd/{folder}/outside")
        os.close(folder)
        listener.listen()
        await client.run(kernel, f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{HOME}/outside')")
        connection, _ = listener.accept()
        cell = client.begin(
            kernel, "print('waits'); data = s.recv(100)\nfor i in range(1000): print(i)\nprint(data, s.send(b'back'))"
        )
        await client.until(lambda: "waits" in client.text)
        store = MemoryStore()
        with pytest.raises(NotDumpable, match="unix socket"):
            await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
        assert not kernel.frozen and store.manifests() == []
        with connection:
            connection.sendall(b"there")
            await client.finish(cell)
            assert connection.recv(10) == b"back"
        await client.until(lambda: "b'there' 4" in client.text)
        assert client.text.splitlines()[1:-1] == [str(i) for i in range(1000)]
        await client.run(kernel, "s.close()")
    # With the connection gone it can be dumped, and thawed again.
    await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    await kernel.thaw()
    await client.run(kernel, "print('still here')")
    await client.until(lambda: client.text.endswith("still here\n"))
    assert os.listdir(tmp_path / "jail" / "images") == []
    await kernel.end()


async def test_tcp_connection_is_named_and_closed_on_the_target_and_lives_on_at_a_resumed_source(
    criu: Criu, tmp_path: Path
) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        await client.run(kernel, f"import socket; s = socket.create_connection(('127.0.0.1', {port}))")
        connection, _ = server.accept()
        with connection:
            store = MemoryStore()
            manifest = await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
            (named,) = manifest.belongings.connections
            assert named.remote == f"127.0.0.1:{port}" and named.state == "ESTABLISHED"
            assert str(named.inner_pid) in named.words and f"127.0.0.1:{port}" in named.words
            # No port of the kernel's own has to be free on the target.
            assert manifest.belongings.listening == ()
            copy_work(tmp_path / "a", tmp_path / "b")
            moved = await ImageKernel.restore(
                spec(tmp_path / "b"), client, criu=criu, origin=StoredImage(store), image_id="image", key=KEY
            )
            await moved.thaw()
            await client.run(
                moved,
                "try: print('sent', s.send(b'x'), s.recv(1))\nexcept OSError as error: print('closed', type(error))",
            )
            await client.until(lambda: "closed" in client.text or "sent" in client.text)
            assert "closed" in client.text
            await moved.end()

            # The migration came to nothing: the source goes on, with its connection.
            await kernel.thaw()
            await client.run(kernel, "s.sendall(b'alive')")
            assert connection.recv(10) == b"alive"
    await kernel.end()


async def test_failing_restore_leaves_nothing_and_the_source_can_go_on(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    cell = client.begin(
        kernel,
        """
import os
with open("open.txt", "w") as file:
    file.write("x" * 100); file.flush(); print("open")
    while not os.path.exists("go"): pass
    print("closed")
""",
    )
    await client.until(lambda: "open" in client.text)
    store = MemoryStore()
    manifest = await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    assert f"{HOME}/work/open.txt" in manifest.belongings.files
    # The working folder was not brought along.
    with pytest.raises(NotRestorableHere, match=r"not there on this node .*open\.txt"):
        await ImageKernel.restore(
            spec(tmp_path / "b"), client, criu=criu, origin=StoredImage(store), image_id="image", key=KEY
        )
    assert os.listdir(tmp_path / "b" / "jail" / "images") == []
    assert not processes_of(tmp_path / "b")
    await kernel.thaw()
    (tmp_path / "a" / "work" / "go").touch()
    await client.finish(cell)
    await client.until(lambda: "closed" in client.text)
    await kernel.end()
    assert not processes_of(tmp_path / "a")


async def test_damaged_image_is_refused_before_criu_sees_it(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    store = MemoryStore()
    manifest = await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    await kernel.end()
    copy_work(tmp_path / "a", tmp_path / "b")
    mark = tmp_path / "b" / "jail" / "started"
    jail = spec(tmp_path / "b")
    trap = tmp_path / "b" / "jail" / "criu"
    trap.write_text(f"#!/bin/sh\ntouch '{HOME}/started'\nexit 1\n")
    trap.chmod(0o755)
    trapped = msgspec.structs.replace(criu, path=f"{HOME}/criu")

    async def restore(which: MemoryStore, key: bytes = KEY) -> None:
        await ImageKernel.restore(jail, client, criu=trapped, origin=StoredImage(which), image_id="image", key=key)

    sealed = store.manifest("image")
    forged = MemoryStore()
    forged.commit("image", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    for which, key in ((forged, KEY), (store, b"another key of 32 bytes, or more")):
        with pytest.raises(ManifestError):
            await restore(which, key)
    # One bit of one chunk in the middle of the memory.
    pages = max(manifest.files, key=lambda file: file.content.size)
    digest = pages.content.digests[32 * 3 : 32 * 4]
    assert digest in references(sealed)
    whole = store._chunks[digest]
    store._chunks[digest] = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    with pytest.raises(ChunkCorrupt):
        await restore(store)
    assert not mark.exists()
    assert os.listdir(tmp_path / "b" / "jail" / "images") == []
    # Whole again, it gets as far as CRIU: the trap is one.
    store._chunks[digest] = whole
    with pytest.raises(NotRestorableHere):
        await restore(store)
    assert mark.exists()


async def test_image_restored_where_the_clock_shows_another_time_goes_on_with_its_own(
    criu: Criu, tmp_path: Path
) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    await client.run(kernel, "import time; before = time.monotonic()")
    store = FolderStore(tmp_path / "store")
    await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    await kernel.end()
    store.close()
    copy_work(tmp_path / "a", tmp_path / "b")
    # A machine that was started a day before this one.
    command = ["unshare", "--time", "--monotonic", "86400", "--boottime", "86400", "--fork", "--kill-child"]
    arguments = [str(tmp_path / "store"), str(tmp_path / "b"), KEY.decode(), criu.path]
    process = await asyncio.create_subprocess_exec(
        *command, sys.executable, "-m", "tests.image.elsewhere", *arguments, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    clock, passed = map(float, output.split())
    assert clock > 86400
    assert 0 < passed < 600


async def test_kernel_that_dies_is_reported_with_its_status(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path, client, criu)
    client.begin(kernel, "import sys; print('runs'); sys.__stderr__.write('to its log\\n')\nwhile True: pass")
    await client.until(lambda: "runs" in client.text)
    kernel.kill()
    assert await asyncio.wait_for(kernel.ended(), 30) == -signal.SIGKILL
    assert client.status == -signal.SIGKILL and not kernel.alive
    assert "to its log" in client.logged
    with pytest.raises(RuntimeError, match="-9"):
        await kernel.ask(Channel.SHELL, "kernel_info_request", {})
    await kernel.end()


async def test_interrupt_of_a_moved_kernel_reaches_its_cell(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    cell = client.begin(kernel, "print('runs')\nwhile True: pass")
    await client.until(lambda: "runs" in client.text)
    moved = await move(kernel, client, criu, tmp_path / "a", tmp_path / "b")
    moved.interrupt()
    await client.until(lambda: cell in client.replies)
    assert client.replies[cell]["ename"] == "KeyboardInterrupt"
    assert moved.pid and Path(f"/proc/{moved.pid}/cmdline").read_bytes().count(b"jupyter_gpuaas.kernel")
    await moved.end()


HOST = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.dump import ImageName
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.jail import HOME
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.image.pack import StoredImage
from tests.image.cells import Client, spec

async def main():
    jail = spec(Path(sys.argv[1]))
    # Stands for a CRIU that is in the middle of its work.
    slow = Path(jail.folder) / "criu"
    slow.write_text(f"#!/bin/sh\\necho begun > {HOME}/begun\\nexec sleep 600\\n")
    slow.chmod(0o755)
    criu = Criu(path=f"{HOME}/criu", version="", dirty_tracking=False, lazy_pages=False)
    kernel = await ImageKernel.start(jail, dict(os.environ), Client(), criu=criu)
    os.mkfifo(Path(jail.folder) / "begun")
    print(kernel.jail.init_pid, flush=True)
    await kernel.dump(StoredImage(MemoryStore()), b"k" * 32, ImageName(id="image"))

asyncio.run(main())
"""


async def test_host_that_is_killed_in_a_dump_leaves_no_process(criu: Criu, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    init_pid = int(await process.stdout.readline())
    pidfd = os.pidfd_open(init_pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        # Opening returns when the stand-in for CRIU opens the other end.
        begun = await asyncio.wait_for(asyncio.to_thread((tmp_path / "jail" / "begun").read_text), 60)
        assert begun == "begun\n"
        process.kill()
        await process.wait()
        await asyncio.wait_for(ended.wait(), 60)
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
    assert not processes_of(tmp_path)


async def test_kernel_has_no_port_and_what_a_forked_process_prints_still_comes(criu: Criu, tmp_path: Path) -> None:
    client = Client()
    kernel = await start(tmp_path / "a", client, criu)
    moved = await move(kernel, client, criu, tmp_path / "a", tmp_path / "b")
    await client.run(
        moved,
        "import os\nif (child := os.fork()) == 0:\n    print('from the child', flush=True); os._exit(0)\n"
        "_ = os.waitpid(child, 0)",
    )
    await client.until(lambda: "from the child" in client.text)
    assert look(moved.jail.processes()).listening == ()
    await moved.end()


async def test_frozen_kernel_keeps_requests_that_are_sent_meanwhile(criu: Criu, node: Path) -> None:
    client = Client()
    kernel = await start(node, client, criu)
    await kernel.freeze()
    cells = [client.begin(kernel, f"print({number})") for number in range(50)]
    await kernel.thaw()
    for cell in cells:
        await client.finish(cell)
    await client.until(lambda: client.text.count("\n") >= 50)
    assert client.text.split() == [str(number) for number in range(50)]
    await kernel.end()


def processes_of(node: Path) -> list[int]:
    """Living processes whose jail's folder is this node's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(node / "jail").encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
