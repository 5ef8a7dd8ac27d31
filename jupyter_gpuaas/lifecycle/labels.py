"""Selectors of node labels, in the words that Ray has for them. Pure.

``a100`` the label has this value; ``!a100`` it has not; ``in(a100,h100)`` one of these; ``!in(a100,h100)`` none of
them. A node without the label has none of the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SELECTOR = re.compile(r"(!?)(?:in\(([^()]*)\)|([^()!,]*))")


def parse(selector: str) -> tuple[bool, frozenset[str]]:
    """Whether the values are those wanted (True) or those not wanted, and the values.

    Raises
    ------
    ValueError
        It is no selector.
    """
    found = _SELECTOR.fullmatch(selector.strip())
    if found is None:
        raise ValueError(f"{selector!r} is not like `a`, `!a`, `in(a,b)` or `!in(a,b)`")
    several = found[2]
    values = [found[3]] if several is None else several.split(",")
    return not found[1], frozenset(value.strip() for value in values)


def selects(selectors: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels will do; a selector that is none selects nothing."""
    for key, selector in selectors.items():
        try:
            wanted, values = parse(selector)
        except ValueError:
            return False
        if (labels.get(key) in values) is not wanted:
            return False
    return True
