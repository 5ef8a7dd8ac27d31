"""Every reader of bytes that come from elsewhere, with damaged and invented ones; `fuzz_wire.py` does it for hours."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abuse.fuzz_targets import TARGETS, forget_store
from tests.abuse.fuzz_wire import mutate

#: Of those that open sockets or write files, fewer.
EXAMPLES = {"agent_request": 100, "peer_answer": 60, "journal_on_disk": 100, "store_on_disk": 60}
USUAL = 250
#: What one target may take of memory for good, whatever the bytes announce.
MOST_BYTES = 64 * 1024**2


@pytest.fixture(scope="module", autouse=True)
def _sound_store() -> Iterator[None]:
    yield
    forget_store()


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_from_elsewhere_do_no_harm(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES.get(name, USUAL),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.one_of(st.binary(max_size=4096), st.tuples(st.sampled_from(target.seeds), st.integers(0, 2**32))))
    def run(data: bytes | tuple[bytes, int]) -> None:
        # A mutation is told by its seed, so that Hypothesis can find a shorter one.
        target.run(data if isinstance(data, bytes) else mutate(data[0], random.Random(data[1])))

    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    run()
    assert process.memory_info().rss - before < MOST_BYTES


#: Nested so deep that readers which call themselves come to their end.
DEEP = (b"[" * 200_000, b'{"a":' * 100_000, b'{"error":' + b"[" * 100_000, b"\x91" * 200_000, b'"\xff"', b"9" * 10_000)


@pytest.mark.parametrize("name", TARGETS)
def test_deep_and_odd_values_do_no_harm(name: str) -> None:
    for data in DEEP:
        TARGETS[name].run(data)


def test_nested_value_inside_of_a_sound_record_is_no_crash() -> None:
    for data in DEEP:
        # One part, which is all of the body.
        TARGETS["sound_records"].run(b"\x02\x01" + bytes(6) + len(data).to_bytes(8, "little") + data)
