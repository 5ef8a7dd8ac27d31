"""The session's half with a real IPython shell, and bundles over real connections."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_gpuaas.client.bundles import get_bundle, put_bundle
from jupyter_gpuaas.errors import CellError, GpuaasError, RemoteProtocolError, TransportError
from jupyter_gpuaas.kernel.bundles import BundleStore
from jupyter_gpuaas.kernel.exchange import CannotBind, Exchange
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.state.bundle import (
    FileHead,
    assemble,
    read_head,
)
from jupyter_gpuaas.state.exchange import Returned, Shipment
from jupyter_gpuaas.state.files import digest_bytes
from jupyter_gpuaas.state.packing import look, pack, together, unpack_group
from jupyter_gpuaas.state.pickling import HELD, held
from tests.unit.notebook import as_main, notebook


class Session:
    """A session's kernel without its messages."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.space: dict[str, Any] = shell.user_ns
        self.bundles = BundleStore()
        self.exchange = Exchange(shell, self.bundles)

    def ask(self, op: str, **content: Any) -> dict[str, Any]:
        return asyncio.run(self.exchange.request({"op": op, **content}))

    def send(self, source: str, *names: str) -> list[str]:
        """Pack names of a notebook in which this ran; the result is the id of the bundle."""
        with as_main(notebook(source)) as space:
            units = together([look([name], [space[name]], space) for name in names], space)
            groups = [pack(unit, space) for unit in units]
            for group in groups:
                group.version = group.digest()
            self.bundles.offer("b", [bytearray(buffer) for buffer in assemble(groups)])
        return [group.version for group in groups]

    def cell(self, code: str, **shipment: Any) -> Returned:
        meta = Shipment(**{"small_value_bytes": 1000, **shipment})
        as_sent = json.loads(json.dumps(vars_of(meta)))
        self.exchange.before(as_sent)
        self.shell.run_cell(code)
        returned = Returned(**self.exchange.after(as_sent, {}))
        assert not returned.failure
        return returned

    def values(self, returned: Returned) -> dict[str, Any]:
        buffers = self.bundles.take(returned.bundle)
        values: dict[str, Any] = {}
        for group in read_head(buffers).groups:
            values |= unpack_group(group, buffers, {**self.space, **values})
        return values


def vars_of(meta: Shipment) -> dict[str, Any]:
    return {name: getattr(meta, name) for name in meta.__struct_fields__}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "work"), *sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    HELD.clear()
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    yield Session(shell)
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    HELD.clear()


# -- cells ---------------------------------------------------------------------------------------


def test_cell_sees_what_came_and_returns_what_it_assigned(session: Session) -> None:
    session.send("x = 3\ndef f(a): return a * x", "x", "f")
    returned = session.cell("y = f(2)\nz = [y]", bundle="b", inputs=["x", "f"], assigns=["y", "z"])
    assert session.values(returned) == {"y": 6, "z": [6]}
    assert returned.changed == []


def test_large_value_stays_as_handle(session: Session) -> None:
    returned = session.cell("import numpy as np\nbig = np.zeros((100, 50), 'f4')\nsmall = 1", assigns=["big", "small"])
    (handle,) = returned.handles
    assert {key: handle[key] for key in ("name", "type", "shape", "dtype", "nbytes", "reason")} == {
        "name": "big",
        "type": "numpy.ndarray",
        "shape": [100, 50],
        "dtype": "float32",
        "nbytes": 20_000,
        "reason": "",
    }
    assert held(handle["handle"]) is session.space["big"]
    assert session.values(returned) == {"small": 1}


def test_forced_value_comes_whatever_its_size(session: Session) -> None:
    returned = session.cell("import numpy as np\nbig = np.arange(5000)", assigns=["big"], force=["big"])
    assert returned.handles == []
    assert (session.values(returned)["big"] == np.arange(5000)).all()


def test_forced_name_that_was_not_assigned_comes_too(session: Session) -> None:
    session.cell("old = 5")
    returned = session.cell("pass", force=["old", "nowhere"])
    assert session.values(returned) == {"old": 5}
    assert returned.missing == ["nowhere"]


def test_value_that_cannot_be_pickled_stays_with_its_reason(session: Session) -> None:
    returned = session.cell("g = (i for i in [1])\nimport threading\nl = [threading.Lock()]", assigns=["g", "l"])
    reasons = {handle["name"]: handle["reason"] for handle in returned.handles}
    assert "is a generator" in reasons["g"]
    assert "holds a lock" in reasons["l"]


def test_handle_gives_the_object_itself_to_a_later_cell(session: Session) -> None:
    returned = session.cell("class P: pass\np = P()\np.big = bytes(5000)", assigns=["p"])
    assert held(returned.handles[0]["handle"]) is session.space["p"]
    again = session.cell("q = p", assigns=["q"])
    assert again.handles[0]["handle"] == returned.handles[0]["handle"]


def test_dropped_handle_is_let_go(session: Session) -> None:
    returned = session.cell("big = bytes(5000)", assigns=["big"])
    session.cell("pass", drop=[returned.handles[0]["handle"]])
    assert HELD == {}
    with pytest.raises(LookupError, match="no longer holds"):
        held(returned.handles[0]["handle"])


def test_assignment_that_was_not_reached_returns_nothing(session: Session) -> None:
    session.cell("x = 1")
    returned = session.cell("if False: x = 2", assigns=["x"])
    assert returned.bundle == ""
    assert returned.handles == []
    assert session.space["x"] == 1


def test_assignment_of_an_equal_value_counts_as_assigned(session: Session) -> None:
    session.cell("x = 1")
    assert session.values(session.cell("x = 1", assigns=["x"])) == {"x": 1}


def test_what_was_assigned_before_an_error_returns(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    returned = session.cell("a = 1\n1 / 0\nb = 2", assigns=["a", "b"])
    assert session.values(returned) == {"a": 1}
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_deleted_name_is_reported(session: Session) -> None:
    session.send("x = 1", "x")
    returned = session.cell("del x", bundle="b", inputs=["x"], deletes=["x"])
    assert returned.deleted == ["x"]


def test_input_changed_in_place_is_reported(session: Session) -> None:
    session.send("x = [1]\ny = [2]\nz = [3]", "x", "y", "z")
    returned = session.cell("x.append(2)\nz += [4]", bundle="b", inputs=["x", "y", "z"], assigns=["z"])
    assert returned.changed == ["x"]
    assert session.values(returned) == {"z": [3, 4]}


def test_new_name_for_an_input_is_reported_as_alias(session: Session) -> None:
    session.send("x = [1]", "x")
    returned = session.cell("y = x", bundle="b", inputs=["x"], assigns=["y"])
    assert returned.aliases == {"y": "x"}
    assert returned.bundle == ""


def test_results_that_share_an_object_come_as_aliases(session: Session) -> None:
    values = session.values(session.cell("a = [1]\nb = {'a': a}", assigns=["a", "b"]))
    assert values["b"]["a"] is values["a"]


# -- what the session holds ----------------------------------------------------------------------


def test_held_group_is_valid_until_it_changes(session: Session) -> None:
    (version,) = session.send("import numpy as np\nx = np.zeros(100_000)", "x")
    session.cell("pass", bundle="b", inputs=["x"])
    assert session.ask("valid", groups=[[["x"], version], [["x"], "other"], [["y"], version]])["valid"] == [0]
    session.space["x"][99_999] = 1
    assert session.ask("valid", groups=[[["x"], version]])["valid"] == []


@pytest.mark.parametrize("code", ["x = 1", "del x", "x.append(1)", "x = list(x) + [x]"])
def test_held_group_is_not_valid_after(session: Session, code: str) -> None:
    (version,) = session.send("x = [1, 'a']", "x")
    session.cell("pass", bundle="b", inputs=["x"])
    session.cell(code, inputs=["x"], assigns=["x"])
    assert session.ask("valid", groups=[[["x"], version]])["valid"] == []


@pytest.mark.parametrize(
    "source",
    [
        "def x(a, b=[1]):\n    'doc'\n    return a",
        "class x:\n    y = 1\n    def m(self): return super().__repr__()",
        "import enum\nclass x(enum.Enum):\n    A = 1",
        "import dataclasses\n@dataclasses.dataclass\nclass x:\n    a: int = 1",
        "import pandas as pd\nx = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
        "import numpy as np\nx = [np.arange(10)[::2], {'k': np.float32(1)}, np.array(['a', None], object)]",
    ],
)
def test_what_came_is_found_unchanged(session: Session, source: str) -> None:
    (version,) = session.send(source, "x")
    session.cell("pass", bundle="b", inputs=["x"])
    assert session.ask("valid", groups=[[["x"], version]])["valid"] == [0]


def test_cell_does_not_run_that_counts_on_what_the_session_holds_no_more(session: Session) -> None:
    (version,) = session.send("x = [1]", "x")
    session.cell("y = x", bundle="b", inputs=["x"])
    session.cell("y = x", inputs=["x"], held=[(["x"], version)])
    with pytest.raises(CannotBind, match="no longer in the session"):
        session.cell("y = x", inputs=["x"], held=[(["x"], "other")])
    with pytest.raises(CannotBind, match="no longer in the session"):
        session.cell("y = z", inputs=["z"], held=[(["z"], version)])


def test_returned_group_is_held(session: Session) -> None:
    returned = session.cell("def f(): return 1", assigns=["f"])
    (group,) = read_head(session.bundles.take(returned.bundle)).groups
    assert session.ask("valid", groups=[[["f"], group.version]])["valid"] == [0]
    session.cell("def f(): return 2")
    assert session.ask("valid", groups=[[["f"], group.version]])["valid"] == []


# -- what goes wrong -----------------------------------------------------------------------------


def test_missing_bundle_stops_the_cell(session: Session) -> None:
    with pytest.raises(CellError, match="not in this session"):
        session.cell("pass", bundle="nowhere")


def test_value_of_a_missing_module_stops_the_cell_and_names_it(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("class A: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    session.send("import only_here\nx = only_here.A()", "x")
    sys.path.remove(str(tmp_path))
    del sys.modules["only_here"]
    with pytest.raises(CannotBind, match="x: needs the module 'only_here'"):
        session.cell("pass", bundle="b", inputs=["x"])


def test_unknown_operation_is_refused(session: Session) -> None:
    with pytest.raises(CellError, match="not known"):
        session.ask("format")


def test_unpicklable_remote_variable_cannot_be_fetched(session: Session) -> None:
    returned = session.cell("g = (i for i in [1])", assigns=["g"])
    with pytest.raises(CellError, match="g cannot be brought here: it is a generator"):
        session.ask("get", handle=returned.handles[0]["handle"], name="g")


# -- files and modules ---------------------------------------------------------------------------


def file(path: str, content: bytes, *, executable: bool = False) -> FileHead:
    return FileHead(path, len(content), 10**18, digest_bytes(content), executable)


def as_json(files: list[FileHead]) -> list[dict[str, Any]]:
    return [{name: getattr(f, name) for name in f.__struct_fields__} for f in files]


def test_files_are_written_and_then_not_wanted(session: Session) -> None:
    files = {"a.txt": b"one", "sub/run.sh": b"two"}
    heads = [file(path, content, executable=path.endswith("sh")) for path, content in files.items()]
    assert session.ask("wanted", files=as_json(heads))["wanted"] == [0, 1]
    session.bundles.offer("f", assemble([], zip(heads, files.values(), strict=True)))
    assert session.ask("write", bundle="f")["written"] == 2
    assert Path("sub/run.sh").read_bytes() == b"two"
    assert os.access("sub/run.sh", os.X_OK)
    assert not os.access("a.txt", os.X_OK)
    assert session.ask("wanted", files=as_json(heads))["wanted"] == []
    Path("a.txt").write_text("new")
    assert session.ask("wanted", files=as_json(heads))["wanted"] == [0]


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out", "", "link/out", "a\0b", "."])
def test_file_outside_the_folder_is_refused(session: Session, path: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path("link").symlink_to(tmp_path / "elsewhere")
    session.bundles.offer("f", assemble([], [(file("fine", b""), b""), (file(path, b"x"), b"x")]))
    with pytest.raises(CellError, match="working folder"):
        session.ask("write", bundle="f")
    assert not Path("fine").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_changed_module_is_imported_again(session: Session) -> None:
    def ship(base: bytes, code: str) -> None:
        top = b"from base_module import value\ndouble = value * 2\n"
        heads = [(file("base_module.py", base), base), (file("top_module.py", top), top)]
        session.bundles.offer("b", assemble([], heads))
        modules = [(head.path, head.digest) for head, _ in heads]
        session.cell(code, bundle="b", modules=modules, paths=["."])

    ship(b"value = 1\n", "import top_module")
    top = session.space["top_module"]
    assert top.double == 2
    ship(b"value = 21\n", "pass")
    assert session.space["top_module"] is top
    assert top.double == 42
    with pytest.raises(CannotBind, match="local module"):
        ship(b"value = = 21\n", "pass")
    for name in ("top_module", "base_module"):
        del sys.modules[name]


def test_hello_tells_versions(session: Session) -> None:
    answer = session.ask("hello", packages=["numpy", "no-such-package"])
    assert answer["packages"] == {"numpy": np.__version__, "no-such-package": None}
    assert answer["folder"] == str(Path.cwd())


# -- bundles over connections --------------------------------------------------------------------


class Front:
    """Listens as an agent does, and hands each connection over to a bundle store."""

    def __init__(self, path: str, *, answer: bytes = b"") -> None:
        self._path = path
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/bundles"
        self.heads: list[bytes] = []

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self._one(client)

    def _one(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(1000)
        head, rest = data.split(b"\r\n\r\n", 1)
        self.heads.append(head)
        if self._answer:
            client.sendall(self._answer)
            return
        method, target, _ = head.split(b"\r\n")[0].decode().split()
        length = next(
            (line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")), b"0"
        )
        message = {
            "method": method,
            "bundle": target.rsplit("/", 1)[1],
            "length": int(length),
            "body_start": base64.b64encode(rest).decode(),
        }
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(self._path)
            socket.send_fds(host, [json.dumps(message).encode()], [client.fileno()])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[..., tuple[Front, BundleStore]]]:
    made: list[Any] = []

    def make(answer: bytes = b"", **options: Any) -> tuple[Front, BundleStore]:
        store = BundleStore(str(tmp_path / f"s{len(made)}"), **options)
        made.append(store)
        made.append(Front(str(tmp_path / f"s{len(made) - 1}"), answer=answer))
        return made[-1], store

    yield make
    for thing in made:
        thing.close()


def info(direct: str = "", relay: str = "") -> ChannelInfo:
    return ChannelInfo(
        direct_url="",
        relay_url="",
        bundle_url=direct,
        relay_bundle_url=relay,
        ticket="the-ticket",
        epoch=1,
        expires_s=0,
    )


CLOSED = "http://127.0.0.1:9/bundles"


async def test_bundle_travels_both_ways(front: Any) -> None:
    served, store = front()
    buffers = [*assemble([]), b"", np.arange(1_000_000).view(np.uint8).data, bytearray(b"x" * 70_000)]
    await put_bundle(info(served.url), "one", buffers)
    assert b"Authorization: Bearer the-ticket" in served.heads[0]
    arrived = store.take("one")
    assert [bytes(buffer) for buffer in arrived] == [bytes(buffer) for buffer in buffers]
    assert not any(buffer.readonly for buffer in arrived)
    store.offer("two", buffers)
    fetched = await get_bundle(info(served.url), "two")
    assert [bytes(buffer) for buffer in fetched] == [bytes(buffer) for buffer in buffers]
    with pytest.raises(GpuaasError, match="not in this session"):
        await get_bundle(info(served.url), "two")


async def test_kernel_without_descriptors_for_a_while_takes_bundles_again(
    front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell has opened all the files that a process may open, and closes them."""
    accept, failures = socket.socket.accept, [OSError(errno.EMFILE, "too many open files")] * 2

    def exhausted(listener: socket.socket) -> Any:
        if listener.family is socket.AF_UNIX and failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", exhausted)
    served, store = front()
    await put_bundle(info(served.url), "one", assemble([]))
    assert not failures and store.take("one")


async def test_relay_is_used_when_the_node_cannot_be_reached(front: Any) -> None:
    served, store = front()
    await put_bundle(info(CLOSED, served.url), "one", assemble([]), token="the-token")
    assert b"Authorization: Bearer the-token" in served.heads[0]
    assert bytes(store.take("one")[0]) == bytes(assemble([])[0])
    with pytest.raises(TransportError, match="could not be moved"):
        await put_bundle(info(CLOSED, served.url), "one", assemble([]), token="the-token", relay="never")
    with pytest.raises(TransportError, match="no address is known"):
        await put_bundle(info(), "one", assemble([]))


async def test_bundle_over_the_limit_is_refused_by_name(front: Any) -> None:
    served, _ = front(limit_bytes=1000)
    with pytest.raises(CellError, match="bundle_bytes"):
        await put_bundle(info(served.url), "one", [*assemble([]), bytes(10_000_000)])


async def test_answer_that_is_not_a_bundle_is_refused(front: Any) -> None:
    served, _ = front(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nNONSENSE")
    with pytest.raises(RemoteProtocolError, match="GPB2"):
        await get_bundle(info(served.url), "one")


async def test_answer_that_ends_early_is_an_error(front: Any) -> None:
    served, _ = front(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nGPB2\1\0\0\0")
    with pytest.raises(TransportError, match="ended before"):
        await get_bundle(info(served.url), "one")


def test_unclaimed_bundles_are_bounded() -> None:
    store = BundleStore()
    for number in range(100):
        store.offer(str(number), [b""])
    with pytest.raises(CellError):
        store.take("0")
    assert store.take("99") == [b""]
