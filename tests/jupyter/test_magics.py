"""``%remote_gpu`` and ``%%remote_gpu`` end to end: a local kernel, a service, a session with its own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.conftest import GpuaasHome

TIMEOUT_S = 60


@dataclass
class Result:
    """What one cell led to."""

    status: str = ""
    #: stream, display and error messages in the order in which they came.
    messages: list[dict[str, Any]] = field(default_factory=list)

    def stream(self, name: str) -> str:
        return "".join(
            m["content"]["text"] for m in self.messages if m["msg_type"] == "stream" and m["content"]["name"] == name
        )

    @property
    def out(self) -> str:
        return self.stream("stdout")

    @property
    def err(self) -> str:
        return self.stream("stderr")

    def of(self, *types: str) -> list[dict[str, Any]]:
        return [m["content"] for m in self.messages if m["msg_type"] in types]

    @property
    def shown(self) -> str:
        """What was printed or displayed, as text."""
        return self.out + "".join(each["data"].get("text/plain", "") for each in self.of("display_data"))

    @property
    def value(self) -> Any:
        """The result, read back from its repr."""
        (result,) = self.of("execute_result")
        return eval(result["data"]["text/plain"])

    @property
    def error(self) -> dict[str, Any]:
        (error,) = self.of("error")
        return error


class Notebook:
    """A local notebook with a plain kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder))
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=TIMEOUT_S)
        self.answers: list[str] = []

    def cell(self, code: str, *, on_message: Callable[[dict[str, Any]], None] | None = None) -> Result:
        result = Result()

        def note(message: dict[str, Any]) -> None:
            if message["msg_type"] not in ("status", "execute_input"):
                result.messages.append(message)
                if on_message is not None:
                    on_message(message)

        def answer(message: dict[str, Any]) -> None:
            self._client.input(self.answers.pop(0))

        reply = self._client.execute_interactive(
            code, timeout=TIMEOUT_S, output_hook=note, stdin_hook=answer, allow_stdin=True, stop_on_error=False
        )
        result.status = reply["content"]["status"]
        return result

    def ok(self, code: str) -> Result:
        result = self.cell(code)
        assert result.status == "ok", "\n".join(result.error["traceback"])
        return result

    def remote(self, code: str, options: str = "") -> Result:
        return self.ok(f"%%remote_gpu {options}\n{code}")

    def fails(self, code: str) -> Result:
        result = self.cell(code)
        assert result.status == "error"
        return result

    def get(self, expression: str) -> Any:
        return self.ok(expression).value

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel()


@pytest.fixture(scope="module")
def notebook(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUAAS_WORKDIR", "session")
        patch.setenv("GPUAAS_DEVICES", "cpu:4")
        patch.setenv("GPUAAS_SMALL_VALUE_BYTES", "100000")
        patch.setenv("GPUAAS_KEPT_BYTES", "1")  # so a parked session's process does not stay
        opened = Notebook(tmp_path_factory.mktemp("notebook"))
        opened.ok("%load_ext jupyter_gpuaas")
        opened.ok("%remote_gpu connect")
        opened.ok("import os; local_pid = os.getpid()")
        yield opened
        opened.close()


# -- variables -----------------------------------------------------------------------------------


def test_cell_runs_in_another_process_with_the_variables_that_it_reads(notebook: Notebook) -> None:
    notebook.ok("a1 = {'k': [1, 2]}; unused = [open(os.devnull)]")
    result = notebook.remote("import os\nthere = os.getpid()\nb1 = sum(a1['k'])\nprint('sum', b1)\nb1 * 2")
    assert result.out == "sum 3\n"
    assert result.value == 6
    assert notebook.get("b1, there != local_pid") == (3, True)


def test_functions_and_classes_of_the_notebook_go_along_with_what_they_read(notebook: Notebook) -> None:
    notebook.ok(
        "import math, dataclasses\n"
        "k2 = 3\n"
        "def f2(x): return math.sqrt(x) * k2\n"
        "@dataclasses.dataclass\n"
        "class P2:\n"
        "    x: float\n"
        "    def m(self): return f2(self.x)\n"
        "class Q2(P2):\n"
        "    def m(self): return super().m() + 1\n"
        "p2 = [Q2(4.0)]"
    )
    notebook.remote("r2 = p2[0].m()\nback2 = Q2(9.0)\ndef g2(): return f2(16)\nsame2 = type(p2[0]) is Q2")
    assert notebook.get("r2, same2, type(back2) is Q2, back2.m(), g2()") == (7.0, True, True, 10.0, 12.0)
    notebook.remote("still2 = isinstance(back2, Q2) and isinstance(p2[0], Q2)")
    assert notebook.get("still2") is True
    notebook.ok("k2 = 5")
    notebook.remote("r2 = g2()")
    assert notebook.get("r2, g2()") == (20.0, 20.0)


def test_aliases_stay_aliases(notebook: Notebook) -> None:
    notebook.ok("import numpy as np\nbase3 = np.zeros(100_000)\nview3 = base3[::7]\nl3 = [1]\nd3 = {'l': l3}")
    notebook.remote("base3[7] = 5\nl3.append(2)\nseen3 = view3[1], d3['l']\nx3 = [1]\ny3 = {'x': x3}\nz3 = l3")
    assert notebook.get("tuple(map(str, seen3)), y3['x'] is x3") == (("5.0", "[1, 2]"), True)


def test_unchanged_variable_is_not_sent_again_and_a_changed_one_is(notebook: Notebook) -> None:
    notebook.ok("import numpy as np\nbig4 = np.ones(1_000_000)")
    notebook.remote("id4 = id(big4)")
    notebook.remote("again4 = id(big4)")
    assert notebook.get("id4 == again4") is True
    notebook.ok("big4[-1] = 7")
    notebook.remote("last4 = float(big4[-1])")
    assert notebook.get("last4") == 7.0
    # What the session changed itself is put right again, and said.
    result = notebook.remote("big4[0] = 3")
    assert "changed in place in the session, but not here: big4" in result.err
    notebook.remote("first4 = float(big4[0])")
    assert notebook.get("first4") == 1.0


def test_large_result_stays_and_is_used_there(notebook: Notebook) -> None:
    notebook.remote("import numpy as np\nfar5 = np.arange(1_000_000.)")
    (shown,) = notebook.ok("far5").of("execute_result")
    assert "RemoteVariable far5: numpy.ndarray (1000000,) float64" in shown["data"]["text/plain"]
    assert "<table>" in shown["data"]["text/html"]
    notebook.ok("nested5 = {'deep': [far5]}")
    notebook.remote("same5 = nested5['deep'][0] is far5\nfar5[0] = 42\ntotal5 = float(far5.sum())")
    assert notebook.get("same5, total5") == (True, 499999500042.0)
    assert notebook.get("float(far5.get()[0]), far5.shape, far5.nbytes, len(far5)") == (
        42.0,
        (1_000_000,),
        8_000_000,
        1_000_000,
    )


def test_object_is_let_go_when_nobody_here_has_its_handle(notebook: Notebook) -> None:
    notebook.remote("far5b = bytes(1_000_000)")
    handle = notebook.get("far5b.handle")
    notebook.ok("both5b = [far5b]\ndel far5b")
    held = f"from jupyter_gpuaas.state.pickling import HELD\n{handle!r} in HELD"
    assert notebook.remote(held).value is True
    notebook.ok("del both5b")
    assert notebook.remote(held).value is False


def test_o_and_i_force(notebook: Notebook) -> None:
    notebook.ok("word6 = 'hidden'")
    notebook.remote("import numpy as np\nbig6 = np.ones(50_000)\nby_name6 = globals()['word6']", "-o big6 -i word6")
    assert notebook.get("big6.shape, by_name6") == ((50_000,), "hidden")
    assert "-o nope6: the session has no such name" in notebook.remote("pass", "-o nope6").err
    assert "no such name here" in notebook.fails("%%remote_gpu -i nope6\npass").error["evalue"]


def test_names_that_cannot_be_sent_are_named_before_anything_runs(notebook: Notebook) -> None:
    notebook.ok("import threading\nlock7 = threading.Lock()\ngen7 = (i for i in [1])\nfine7 = 1")
    notebook.ok("def uses7(): return lock7")
    result = notebook.fails("%%remote_gpu\nran7 = fine7\nprint(uses7(), [gen7])")
    assert result.error["ename"] == "NotShippable"
    assert "lock7: is a lock object" in result.error["evalue"]
    assert "gen7: is a generator" in result.error["evalue"]
    assert "fine7" not in result.error["evalue"]
    assert len(result.error["traceback"]) == 1
    assert notebook.remote("'ran7' in globals()").value is False


def test_result_that_cannot_come_stays_with_its_reason(notebook: Notebook) -> None:
    notebook.remote("gen8 = (i for i in range(3))")
    assert "is a generator" in notebook.get("gen8.reason")
    notebook.remote("first8 = next(gen8)\nsecond8 = next(gen8)")
    assert notebook.get("first8, second8") == (0, 1)
    assert "is a generator" in notebook.fails("gen8.get()").error["evalue"]


def test_deleted_name_is_gone_here_too(notebook: Notebook) -> None:
    notebook.ok("gone9 = 1")
    notebook.remote("del gone9")
    assert notebook.get("'gone9' in globals()") is False


# -- errors --------------------------------------------------------------------------------------


def test_remote_error_is_the_local_one_with_the_remote_traceback(notebook: Notebook) -> None:
    notebook.ok("def fails10(): return 1 / 0")
    result = notebook.fails("%%remote_gpu\nbefore10 = 1\nfails10()\nafter10 = 2")
    assert (result.error["ename"], result.error["evalue"]) == ("ZeroDivisionError", "division by zero")
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(result.error["traceback"]))
    assert "fails10()" in text
    assert text.count("Traceback") == 1
    assert "jupyter_gpuaas" not in text
    assert notebook.get("before10, 'after10' in globals()") == (1, False)


def test_syntax_error_is_the_remote_kernels(notebook: Notebook) -> None:
    assert notebook.fails("%%remote_gpu\nx = = 1").error["ename"] == "SyntaxError"


def test_module_that_the_session_lacks_is_named(notebook: Notebook) -> None:
    # The module is importable here only: its folder is outside the notebook's.
    elsewhere = notebook.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "only_here11.py").write_text("class A: pass\n")
    notebook.ok(f"import sys; sys.path.append({str(elsewhere)!r})\nimport only_here11\na11 = only_here11.A()")
    result = notebook.fails("%%remote_gpu\nran11 = 1\na11")
    assert "a11: needs the module 'only_here11'" in result.error["evalue"]
    assert notebook.remote("'ran11' in globals()").value is False


def test_variables_come_again_after_the_kernel_died(notebook: Notebook) -> None:
    notebook.ok("list12 = [1, 2]")
    notebook.remote("import numpy as np\nfar12 = np.zeros(100_000)\nlen12 = len(list12)")
    result = notebook.fails("%%remote_gpu\nimport os\nos._exit(3)")
    assert result.error["ename"] == "KernelDied"
    notebook.remote("len12 = len(list12) + 1")
    assert notebook.get("len12") == 3
    for code in ("%%remote_gpu\nfar12", "far12.get()"):
        error = notebook.fails(code).error
        assert "no longer holds this remote variable" in error["evalue"]
        assert len(error["traceback"]) == 1


def test_released_session_ends_the_cell_and_the_next_cell_gets_a_new_one(
    notebook: Notebook, module_gpuaas_home: GpuaasHome
) -> None:
    (session,) = [
        session["id"]
        for session in json.loads(module_gpuaas_home.cli("sessions", "--json").stdout)
        if session["clients"]
    ]

    def release(message: dict[str, Any]) -> None:
        if "waiting" in message["content"].get("text", ""):  # the end of the line may come in a message of its own
            module_gpuaas_home.cli("release", session)

    result = notebook.cell(
        "%%remote_gpu\nimport time\nprint('waiting', flush=True)\ntime.sleep(600)", on_message=release
    )
    assert result.error["ename"] == "SessionEnded"
    notebook.ok("alive13 = 1")
    assert notebook.remote("alive13").value == 1


def test_session_that_was_released_elsewhere_can_be_left_and_released(
    notebook: Notebook, module_gpuaas_home: GpuaasHome
) -> None:
    for command, told in (("release", "has ended"), ("detach", "left session")):
        notebook.ok("%remote_gpu connect --session gone13")
        module_gpuaas_home.cli("release", "gone13")
        assert told in notebook.ok(f"%remote_gpu {command}").out
        assert "not connected" in notebook.ok("%remote_gpu checkpoints").out


def test_connection_stays_when_another_cannot_be_had(notebook: Notebook) -> None:
    notebook.ok("%remote_gpu connect --session kept13")
    assert notebook.fails("%remote_gpu connect --memory 100000").error["ename"] == "NoCapacity"
    assert "session 'kept13'" in notebook.ok("%remote_gpu status").shown
    notebook.ok("%remote_gpu release")


def test_wrong_use_is_told(notebook: Notebook) -> None:
    assert "--help" in notebook.cell("%remote_gpu nonsense").err
    assert "No closing quotation" in notebook.cell("%remote_gpu sync 'x").err
    assert "is not a name" in notebook.cell("%%remote_gpu -o 1x\npass").err
    assert "%remote_gpu sync" in notebook.ok("%remote_gpu --help").out


# -- outputs -------------------------------------------------------------------------------------


def test_outputs_come_while_the_cell_runs_and_in_order(notebook: Notebook) -> None:
    def answer(message: dict[str, Any]) -> None:
        if found := re.search(r"line (\d)", message["content"].get("text", "")):
            (notebook.folder / f"seen14-{found[1]}").touch()

    notebook.remote("pass")  # what is said while a session starts is not the cell's
    result = notebook.cell(
        "%%remote_gpu\n"
        "import pathlib, sys, time\n"
        "for i in range(4):\n"
        "    print(f'line {i}', flush=True)\n"
        f"    seen = pathlib.Path({str(notebook.folder)!r}, f'seen14-{{i}}')\n"
        "    while not seen.exists(): time.sleep(0.01)\n"
        "print('to stderr', file=sys.stderr, flush=True)\n"
        "print('end')",
        on_message=answer,
    )
    assert result.out == "line 0\nline 1\nline 2\nline 3\nend\n"
    assert result.err == "to stderr\n"
    names = [message["content"]["name"] for message in result.messages]
    assert names[-2:] == ["stderr", "stdout"]


def test_many_lines_are_complete(notebook: Notebook) -> None:
    result = notebook.remote("for i in range(5000): print(i, flush=True)")
    assert result.out == "".join(f"{i}\n" for i in range(5000))


def test_rich_outputs_updates_and_clearing(notebook: Notebook) -> None:
    result = notebook.remote(
        "from IPython.display import HTML, clear_output, display\n"
        "display(HTML('<b>bold</b>'))\n"
        "handle = display('first', display_id='id15')\n"
        "handle.update('second')\n"
        "clear_output(wait=True)\n"
        "HTML('<i>result</i>')"
    )
    html, first = result.of("display_data")
    assert html["data"]["text/html"] == "<b>bold</b>"
    (update,) = result.of("update_display_data")
    assert first["transient"]["display_id"] == update["transient"]["display_id"] == "id15"
    assert update["data"]["text/plain"] == "'second'"
    assert result.of("clear_output") == [{"wait": True}]
    assert result.of("execute_result")[0]["data"]["text/html"] == "<i>result</i>"


def test_progress_bars_rewrite_their_line(notebook: Notebook) -> None:
    result = notebook.remote("from tqdm import tqdm\nfor _ in tqdm(range(5), mininterval=0): pass")
    assert result.err.count("\r") >= 5
    assert "5/5" in result.err


def test_input_is_answered_here(notebook: Notebook) -> None:
    notebook.answers = ["Ada", "secret"]
    notebook.remote("import getpass\nname17 = input('name? ')\nword17 = getpass.getpass()")
    assert notebook.get("name17, word17") == ("Ada", "secret")


def test_interrupt_reaches_the_remote_cell(notebook: Notebook) -> None:
    def interrupt(message: dict[str, Any]) -> None:
        if "sleeping" in message["content"].get("text", ""):  # the end of the line may come in a message of its own
            notebook.interrupt()

    result = notebook.cell(
        "%%remote_gpu\nimport time\ncaught18 = 0\ntry:\n    print('sleeping', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    caught18 = 1\n    raise",
        on_message=interrupt,
    )
    assert result.error["ename"] == "KeyboardInterrupt"
    assert "interrupting the remote cell" in result.err
    assert notebook.get("caught18") == 1


def test_second_interrupt_stops_waiting_and_the_session_goes_on(notebook: Notebook) -> None:
    def interrupt(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and (
            "stubborn" in message["content"]["text"] or "once more" in message["content"]["text"]
        ):
            notebook.interrupt()

    enough = notebook.folder / "enough19"
    result = notebook.cell(
        "%%remote_gpu\nimport time, pathlib\ntry:\n    print('stubborn', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        f"    while not pathlib.Path({str(enough)!r}).exists(): time.sleep(0.05)\n"
        "    done19 = 1",
        on_message=interrupt,
    )
    assert result.error["ename"] == "GaveUpWaiting"
    assert "the cell goes on in the session" in result.error["traceback"][0]
    enough.touch()
    # The next cell waits its turn, and finds what the former one did.
    notebook.remote("found19 = done19")
    assert notebook.get("found19") == 1


# -- files and modules ---------------------------------------------------------------------------


def test_local_module_goes_along_and_its_change_too(notebook: Notebook) -> None:
    (notebook.folder / "helper20.py").write_text("from inner20 import value\ndef h(): return value\nclass C: pass\n")
    (notebook.folder / "inner20.py").write_text("value = 1\n")
    notebook.remote("import helper20\nr20 = helper20.h()")
    assert notebook.get("r20") == 1
    (notebook.folder / "inner20.py").write_text("value = 22\n")
    notebook.remote("r20 = helper20.h()")
    assert notebook.get("r20") == 22
    notebook.ok("import helper20\nobj20 = helper20.C()")
    notebook.remote("kind20 = type(obj20).__module__")
    assert notebook.get("kind20") == "helper20"


def test_missing_file_names_the_command_and_sync_sends_it(notebook: Notebook) -> None:
    (notebook.folder / "data21").mkdir()
    (notebook.folder / "data21" / "x.csv").write_text("1,2")
    result = notebook.fails("%%remote_gpu\nopen('data21/x.csv').read()")
    assert result.error["ename"] == "FileNotFoundError"
    assert "`%remote_gpu sync data21/x.csv`" in result.error["traceback"][-1]
    assert "1 of 1 files sent" in notebook.ok("%remote_gpu sync data21").out
    assert "0 of 1 files sent" in notebook.ok("%remote_gpu sync data21").out
    assert notebook.remote("open('data21/x.csv').read()").value == "1,2"
    (notebook.folder / "data21" / "x.csv").write_text("3,4")
    assert "1 of 1 files sent" in notebook.ok("%remote_gpu sync data21").out
    assert notebook.remote("open('data21/x.csv').read()").value == "3,4"
    assert "`%remote_gpu sync" not in "".join(notebook.fails("%%remote_gpu\nopen('nowhere21')").error["traceback"])
    assert "outside the notebook's folder" in notebook.fails("%remote_gpu sync /etc/hostname").error["evalue"]


# -- the session ---------------------------------------------------------------------------------


def test_status_nodes_and_logs(notebook: Notebook) -> None:
    notebook.remote("print('for the log 22')")
    result = notebook.ok("%remote_gpu status")
    assert "on local-0 with cpu:" in result.shown and "GiB" in result.shown
    # A widget where there can be widgets, with what stands for it where there cannot.
    (shown,) = result.of("display_data")
    assert shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert "<meter" in shown["data"]["text/html"] and "local-0" in shown["data"]["text/html"]
    (opened,) = (each for each in result.of("comm_open") if "facts" in each["data"]["state"])
    facts = opened["data"]["state"]["facts"]
    assert facts["state"] in ("idle", "busy")
    assert (facts["node"], len(facts["devices"])) == ("local-0", 1)
    assert "local-0: up" in notebook.ok("%remote_gpu nodes").out
    assert "for the log 22" in notebook.ok("%remote_gpu logs --tail 20").out


def test_magics_inside_the_session_tell_about_it(notebook: Notebook) -> None:
    inside = notebook.remote("%remote_gpu status").out
    assert "this is session" in inside and "on local-0" in inside and "cpu:" in inside
    assert notebook.remote("get_ipython().run_cell_magic('remote_gpu', '', 'print(6 * 7)')").out == "42\n"


def test_session_on_a_named_node_is_another_one(notebook: Notebook) -> None:
    notebook.remote("import os\nfirst24 = os.getpid()")
    notebook.remote("import os\nsecond24 = os.getpid()", "--on local-0")
    assert notebook.get("first24 != second24") is True
    notebook.remote("import numpy as np\nfar24 = np.zeros(100_000)")
    assert "held by another session" in notebook.fails("%%remote_gpu --on local-0\nfar24").error["evalue"]


def test_detached_session_is_found_again_by_its_name(notebook: Notebook) -> None:
    assert "session 'kept25':" in notebook.ok("%remote_gpu connect --session kept25 --on local-0").shown
    notebook.remote("import numpy as np\nheld25 = np.arange(100_000)\nimport os\npid25 = os.getpid()", "--on local-0")
    notebook.ok("%remote_gpu detach")
    assert "not connected" in notebook.ok("%remote_gpu status").out
    notebook.ok("del held25")
    notebook.ok("%remote_gpu connect --session kept25 --on local-0")
    notebook.remote("import os\nsame25 = os.getpid() == pid25, held25.shape", "--on local-0")
    assert notebook.get("same25") == (True, (100_000,))
    assert "has ended" in notebook.ok("%remote_gpu release").out
    assert "not connected" in notebook.ok("%remote_gpu status").out


def test_park_asks_where_names_would_be_lost(notebook: Notebook) -> None:
    notebook.ok("%remote_gpu connect --session asked28")
    notebook.remote(
        "import threading\ngo28 = threading.Event()\nthread28 = threading.Thread(target=go28.wait, daemon=True)\n"
        "thread28.start()\nkept28 = 28"
    )
    notebook.ok("%remote_gpu checkpoint")
    notebook.answers = [""]
    assert "The session stays as it is" in notebook.fails("%remote_gpu park").error["evalue"]
    assert notebook.remote("thread28.is_alive()").value is True
    notebook.answers = ["y"]
    assert "is parked; the next cell brings it back" in notebook.ok("%remote_gpu park").out
    assert notebook.answers == []
    assert notebook.remote("kept28").value == 28
    assert "thread28" in notebook.fails("%%remote_gpu\nthread28.is_alive()").error["evalue"]
    notebook.ok("%remote_gpu release")


def test_interrupted_wait_for_a_device_leaves_nothing_in_the_queue(
    notebook: Notebook, module_gpuaas_home: GpuaasHome
) -> None:
    def sessions() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(module_gpuaas_home.cli("sessions", "--json").stdout)
        return found

    for session in sessions():  # All four devices are wanted; detached sessions hold theirs.
        module_gpuaas_home.cli("release", session["id"])
    notebook.ok("%remote_gpu connect --session taken27 --devices 4")
    notebook.ok("%remote_gpu checkpoint")
    said = notebook.ok("%remote_gpu restore -1 --new waits27").out
    assert "session 'waits27' is queued, place 1 in the queue;" in said and "attach waits27" in said
    module_gpuaas_home.cli("release", "waits27")

    def interrupt(message: dict[str, Any]) -> None:
        if "place 1 in the queue" in message["content"].get("text", ""):
            notebook.interrupt()

    result = notebook.cell("%%remote_gpu --on local-0\npass", on_message=interrupt)
    assert "interrupted while session" in result.error["evalue"]
    assert [session["name"] for session in sessions()] == ["taken27"]
    notebook.ok("%remote_gpu release")


def test_everything_goes_through_the_controller_when_the_node_cannot_be_reached(notebook: Notebook) -> None:
    notebook.ok("import os; os.environ['GPUAAS_RELAY'] = 'always'\nimport numpy as np\nsent26 = np.arange(300_000.)")
    result = notebook.remote("print('by relay')\nback26 = sent26 * 2")
    assert result.out == "by relay\n"
    assert notebook.get("bool((back26.get() == sent26 * 2).all())") is True
    notebook.ok("%remote_gpu release\ndel os.environ['GPUAAS_RELAY']")
