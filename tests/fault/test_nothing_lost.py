"""Nothing lost, nothing twice: cuts at random moments while a cell prints and counts.

Each trial runs a cell that prints 20,000 numbered lines and adds one to a counter in a file, and breaks something at a
random moment. Afterwards the client has every line once and in order (a message that was handed over twice bears the
same id, and counts once), one reply, and the counter says that the cell ran once.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from tests.conftest import GpuaasHome, _new_home, _use, close_home

from .cutter import Cutter
from .session import ProxyRun

pytestmark = [pytest.mark.fault, pytest.mark.trials, pytest.mark.timeout(900)]

LINES = 20_000
#: Trials of each of the eight: four ways to break things, direct and by the relay. 25 of each are 200.
TRIALS = int(os.environ.get("GPUAAS_TRIALS", "3"))
CELL = """
from pathlib import Path
counter = Path({counter!r})
counter.write_text(str(int(counter.read_text()) + 1))
for number in range({lines}):
    print(number)
    if number % 50 == 0:
        import sys; sys.stdout.flush()
    if number == {gate}:
        import time
        while not Path({go!r}).exists(): time.sleep(0.005)
"""


class Place:
    """A service behind bad networks: one before the agent, one before the controller."""

    def __init__(self, home: GpuaasHome) -> None:
        self.home = home
        self.agent_net = Cutter(self._agent_port)
        self.service_net = Cutter(self._service_port)
        (home.path / "settings.toml").write_text(
            "\n".join(
                [
                    'devices = "cpu:2"',
                    "ping_s = 0.2",
                    "silence_s = 0.6",
                    "retry_first_s = 0.05",
                    "retry_most_s = 0.2",
                    "ack_delay_s = 0.1",
                    f'advertise = "http://127.0.0.1:{self.agent_net.port}"',
                ]
            )
        )
        home.cli("up", "--detach")

    def environ(self, way: str) -> dict[str, str]:
        """Of a proxy: ``direct`` reaches the agent by a bad network, ``relay`` the controller."""
        if way == "direct":
            return {"GPUAAS_RELAY": "never"}
        return {
            "GPUAAS_RELAY": "always",
            "GPUAAS_URL": f"http://127.0.0.1:{self.service_net.port}",
            "GPUAAS_TOKEN": (self.home.path / "token").read_text().strip(),
        }

    def kill_controller(self) -> None:
        written = read_service_file(self.home.path)
        assert written is not None
        process = psutil.Process(written.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(20)

    def start_controller(self) -> None:
        self.home.cli("up", "--detach")

    def _agent_port(self) -> int:
        return int(msgspec.json.decode((self.home.path / "nodes/local-0/agent.json").read_bytes())["port"])

    def _service_port(self) -> int:
        written = read_service_file(self.home.path)
        assert written is not None
        return written.port


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    home = _new_home()
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, home)
        place = Place(home)
        yield place
        place.agent_net.close()
        place.service_net.close()
        close_home(home)


def last_line(message: dict[str, Any], of: str) -> int:
    """The last whole number that a stream message of the cell ends with; -1 for other messages."""
    if message["msg_type"] != "stream" or message["parent_header"].get("msg_id") != of:
        return -1
    numbers = message["content"]["text"].split()
    return int(numbers[-1]) if numbers else -1


def break_it(how: str, way: str, place: Place, run: ProxyRun, chance: random.Random) -> None:
    net = place.agent_net if way == "direct" else place.service_net
    if how == "proxy killed":
        run.kill_proxy()
        run.start_proxy()
    elif how == "controller killed":
        place.kill_controller()
        place.start_controller()
    elif how == "socket closed":
        for _ in range(chance.randint(1, 4)):
            net.cut()
            time.sleep(chance.uniform(0, 0.1))  # the moments are the experiment, nothing waits for them
    elif how == "network stalled":
        net.stall()
        time.sleep(chance.uniform(0.1, 1.5))
        if chance.random() < 0.5:
            net.cut()  # half of the stalls end in a reset, half heal
        net.heal()


@pytest.mark.parametrize("way", ["direct", "relay"])
@pytest.mark.parametrize("how", ["proxy killed", "controller killed", "socket closed", "network stalled"])
def test_every_line_once_in_order_and_the_cell_ran_once(place: Place, tmp_path: Path, how: str, way: str) -> None:
    chance = random.Random(f"{how}/{way}")
    run = ProxyRun(tmp_path, f"{how}-{way}".replace(" ", "-"), place.environ(way)).ready()
    counter = tmp_path / "counter"
    counter.write_text("0")
    broken = 0
    try:
        for trial in range(1, TRIALS + 1):
            run.heard.clear()
            go = tmp_path / f"go{trial}"
            cell = CELL.format(counter=str(counter), lines=LINES, gate=LINES - LINES // 10, go=str(go))
            msg_id = run.client.execute(cell)
            # Break it at a random line; the cell cannot end before.
            at = chance.randrange(LINES - LINES // 5)
            run.wait(lambda m, of=msg_id, at=at: last_line(m, of) >= at)
            go.touch()
            break_it(how, way, place, run, chance)
            broken += 1
            reply = run.wait_done(msg_id)
            assert reply["content"]["status"] == "ok", reply["content"]
            assert run.text(msg_id).split() == [str(n) for n in range(LINES)], f"trial {trial}"
            assert counter.read_text() == str(trial)
            ids = {
                m["header"]["msg_id"]
                for m in run.heard
                if m["msg_type"] == "execute_reply" and m["parent_header"]["msg_id"] == msg_id
            }
            assert len(ids) == 1
    finally:
        run.close()
    assert broken == TRIALS
