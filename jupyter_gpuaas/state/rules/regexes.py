"""Matches of regular expressions: found again in the same string, and compared."""

from __future__ import annotations

from typing import Any

from .registry import Context, NotRestorable, rule


@rule("re.Match", exact=True)
def reduce_match(match: Any, context: Context) -> Any:
    made = (match.re, match.string, match.pos, match.endpos, match.regs, match.lastindex)
    if _find(*made) is None:
        raise NotRestorable("is a match that its pattern does not find again")
    return rematch, made


def rematch(*made: Any) -> Any:
    match = _find(*made)
    if match is None:
        raise NotRestorable("is a match that its pattern does not find again")
    return match


def _find(pattern: Any, string: Any, pos: int, endpos: int, regs: Any, lastindex: int | None) -> Any:
    def is_same(match: Any) -> bool:
        return match is not None and (match.regs, match.lastindex, match.pos) == (regs, lastindex, pos)

    # Matches at the very place first: a search would walk the string up to it.
    if regs[0][0] == pos:
        for way in (pattern.match, pattern.fullmatch):
            if is_same(match := way(string, pos, endpos)):
                return match
    for match in pattern.finditer(string, pos, endpos):
        if is_same(match):
            return match
        if match.start() > regs[0][0]:
            break
    return None
