"""What a cell is told while there is no session, and when it is told that there will be none."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer
from jupyter_gpuaas.wire.waiting import Held, Waiting


class Clients:
    """Notes what is said to them."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def reply(self, channel: Channel, address: bytes, parts: list[Buffer]) -> bool:
        return self.publish(b"", parts)

    def publish(self, topic: Buffer, parts: list[Buffer]) -> bool:
        self.heard.append((read_header(parts[0]).msg_type, msgspec.json.decode(parts[3])))
        return True

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.heard]


def held(msg_type: str = "execute_request", waited_s: float = 0.0) -> Held:
    parts = make_parts(b"", msg_type, b"{}", {"code": "1"})[1:]
    now = asyncio.get_running_loop().time()
    return Held(Channel.SHELL, b"a", read_header(parts[0]).msg_id, msg_type, parts, now - waited_s)


def waiting(clients: Clients, unreachable_s: float = 0.0) -> Waiting:
    return Waiting(clients.reply, clients.publish, unreachable_s, 10_000)


async def test_wait_is_shown_in_the_cell_replaced_in_place_and_taken_down() -> None:
    clients = Clients()
    wait = waiting(clients)
    wait.status("queued, place 2")
    wait.hold(held(waited_s=5))
    wait.status("queued, place 1")
    assert clients.kinds() == ["status", "display_data", "update_display_data"]
    shown = [content for kind, content in clients.heard if "display" in kind]
    assert "place 2" in shown[0]["data"]["text/plain"] and "place 1" in shown[1]["data"]["text/plain"]
    assert shown[0]["transient"] == shown[1]["transient"]
    assert len(wait.release()) == 1
    assert clients.kinds()[-1] == "clear_output"


async def test_short_wait_is_not_mentioned() -> None:
    clients = Clients()
    wait = waiting(clients)
    wait.hold(held())
    assert len(wait.release()) == 1 and clients.heard == []


async def test_unreachable_service_fails_the_cell_with_its_reason() -> None:
    clients = Clients()
    wait = waiting(clients)
    wait.hold(held())
    wait.trouble("nobody answers at http://x")
    assert clients.kinds() == ["status", "error", "execute_reply", "status"]
    assert clients.heard[1][1]["evalue"] == "nobody answers at http://x"
    assert clients.heard[0][1]["execution_state"] == "busy" and clients.heard[3][1]["execution_state"] == "idle"
    assert wait.release() == []


async def test_trouble_counts_from_its_beginning_and_not_from_the_cell() -> None:
    clients = Clients()
    wait = waiting(clients, unreachable_s=0.05)
    wait.trouble("first")
    await asyncio.sleep(0.06)
    wait.retrying("looking")  # a new try does not begin the count again
    wait.trouble("second")
    wait.hold(held())
    assert "error" in clients.kinds()


async def test_trouble_that_ends_fails_nobody() -> None:
    clients = Clients()
    wait = waiting(clients, unreachable_s=60)
    wait.hold(held())
    wait.trouble("gone")
    wait.status("starting")
    assert "error" not in clients.kinds() and len(wait.release()) == 1


async def test_kernel_info_waits_once_and_then_no_more() -> None:
    clients = Clients()
    wait = waiting(clients)
    wait.hold(held("kernel_info_request", waited_s=1))
    assert clients.heard == []
    wait.release()
    wait.hold(held("kernel_info_request", waited_s=5))
    clients.heard.clear()
    wait.hold(held("kernel_info_request"))
    assert clients.kinds() == ["status", "kernel_info_reply", "status"]


async def test_kernel_info_is_told_at_once_when_there_is_trouble() -> None:
    clients = Clients()
    wait = waiting(clients, unreachable_s=60)
    wait.trouble("gone")
    wait.hold(held("kernel_info_request"))
    assert "kernel_info_reply" in clients.kinds()


async def test_interrupt_cancels_cells_and_keeps_the_rest() -> None:
    clients = Clients()
    wait = waiting(clients)
    wait.hold(held(waited_s=5))
    wait.hold(held("complete_request"))
    wait.cancel_cells()
    assert clients.kinds()[-5:] == ["clear_output", "status", "error", "execute_reply", "status"]
    assert clients.heard[-3][1]["ename"] == "KeyboardInterrupt"
    assert [one.msg_type for one in wait.release()] == ["complete_request"]


async def test_end_of_the_session_answers_every_kind_of_request() -> None:
    clients = Clients()
    wait = waiting(clients)
    for msg_type in ("execute_request", "kernel_info_request", "debug_request"):
        wait.hold(held(msg_type))
    wait.fail("RemoteSessionEnded", "released")
    content = dict(clients.heard)
    assert content["execute_reply"]["ename"] == "RemoteSessionEnded"
    assert content["kernel_info_reply"]["status"] == "ok"
    assert content["debug_reply"]["success"] is False and content["debug_reply"]["body"] == {}


async def test_more_than_may_wait_is_refused_and_the_rest_kept() -> None:
    wait = waiting(Clients())
    big = held()
    big.parts.append(bytes(9_900))
    assert wait.hold(big)
    assert not wait.hold(held())
    assert wait.release() == [big]
    assert wait.hold(held())


async def test_request_that_comes_is_looked_at_alone_however_many_wait() -> None:
    wait = Waiting(Clients().reply, Clients().publish, 60.0, 1 << 30)
    looked = 0
    look = wait._waits_on

    def counting(one: Held, now: float) -> bool:
        nonlocal looked
        looked += 1
        return look(one, now)

    wait._waits_on = counting  # type: ignore[method-assign]
    for _ in range(100):
        wait.hold(held())
    assert looked == len(wait.release()) == 100


async def test_small_requests_take_memory_beside_their_bytes() -> None:
    wait = waiting(Clients())
    assert [wait.hold(held()) for _ in range(6)] == [True] * 4 + [False] * 2
