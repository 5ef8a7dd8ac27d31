"""What is found to be shared before anything is pickled, and after."""

from __future__ import annotations

import gc

from jupyter_gpuaas.state import Checkpointer
from jupyter_gpuaas.state.groups import Ids
from jupyter_gpuaas.state.sharing import by_search, held_directly
from jupyter_gpuaas.store import MemoryStore

KEY = b"0123456789abcdef"
MANY = 30_000


class Item:
    def __init__(self, number: int) -> None:
        self.number = number
        self.parts = [number]


def test_names_of_objects_in_very_large_containers() -> None:
    items = [Item(number) for number in range(MANY)]
    by_number = dict(enumerate(items))
    texts = {number: str(number) for number in range(MANY)}
    values = {"texts": texts, "alone": Item(0), "text": texts[5], "number": 7}
    assert held_directly(values) == []
    assert held_directly({**values, "items": items, "one": items[3]}) == [{"items", "one"}]
    more = {"items": items, "by_number": by_number, "one": items[3], "same": items[3], **values}
    assert held_directly(more) == [{"items", "by_number", "one", "same"}]
    assert held_directly({"few": items[:10], "one": items[3]}) == []


def test_a_search_passes_over_numbers_and_texts_and_finds_what_is_among_them() -> None:
    deep = [1]
    for container in (
        [*range(5000), deep],
        (*range(5000), deep),
        {**{number: "x" for number in range(5000)}, 6000: deep},
        {**{number: "x" for number in range(5000)}, (6000, frozenset({(1,)})): 1},
    ):
        found = by_search((container,), [], [], [])
        inner = [obj for obj in gc.get_referents(container) if isinstance(obj, (list, tuple))]
        assert id(container) in found and {id(obj) for obj in inner} <= set(found)
    plain = list(range(5000))
    assert by_search((plain,), [], [], []) == [id(plain)]


def test_ids_of_groups_that_became_one() -> None:
    few, many = Ids([3, 4]), Ids(list(range(1000, 40_000)))
    joined = Ids.joined([few, many])
    assert sorted(joined) == [3, 4, *range(1000, 40_000)]
    assert joined.meets(Ids([4])) and joined.meets(Ids([39_999])) and not joined.meets(Ids([5]))


def test_a_name_within_a_large_container_stays_the_same_object() -> None:
    items = {number: Item(number) for number in range(MANY)}
    space = {"items": items, "same": items[5], "inner": items[6].parts, "other": [1]}
    checkpointer = Checkpointer(MemoryStore(), key=KEY)
    first = checkpointer.capture(space)
    assert checkpointer.tracker is not None
    groups = {frozenset(group.names) for group in checkpointer.tracker.groups}
    assert {frozenset({"items", "same", "inner"}), frozenset({"other"})} <= groups
    # Later a part is given a name, and the large container is not among what was touched.
    space["late"] = items[7].parts
    second = checkpointer.capture(space, parent=first, touched=frozenset({"late"}))
    back = checkpointer.restore(second).namespace
    assert back["same"] is back["items"][5] and back["inner"] is back["items"][6].parts
    assert back["late"] is back["items"][7].parts
