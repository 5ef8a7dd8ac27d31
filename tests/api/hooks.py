"""What schemathesis is told beside the description: sessions and nodes that are there, and nothing that waits for long.

Loaded by it, from the environment variable SCHEMATHESIS_HOOKS; what is there comes by the environment, too.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import schemathesis

#: Ids of an idle, a parked and an ended session, and of a node, with commas between.
SESSIONS, NODE = "GPUAAS_API_SESSIONS", "GPUAAS_API_NODE"
LONGEST_WAIT_S = 0.05
#: They would end what the other routes are asked about.
ENDS = {("DELETE", "/sessions/{session}"), ("DELETE", "/api/kernels/{session}")}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change a case just before it is sent."""
    given = case.path_parameters
    if isinstance(given, dict) and "session" in given:
        idle, parked, ended = os.environ[SESSIONS].split(",")
        known = [ended, ended] if (case.method.upper(), case.operation.path) in ENDS else [idle, idle, parked, ended]
        # By what was made up, so that a case that failed is the same case again.
        number = zlib.crc32(repr(given["session"]).encode()) % (len(known) + 1)
        if number < len(known):
            given["session"] = known[number]
    if isinstance(given, dict) and "node" in given and zlib.crc32(repr(given["node"]).encode()) % 2:
        given["node"] = os.environ[NODE]
    for holder in (case.query, case.body):
        if isinstance(holder, dict):
            _bound(holder)


def _bound(holder: dict[str, Any]) -> None:
    wait_s = holder.get("wait_s")
    if isinstance(wait_s, int | float) and not isinstance(wait_s, bool):
        holder["wait_s"] = min(wait_s, LONGEST_WAIT_S)
    elif isinstance(wait_s, str):
        holder["wait_s"] = wait_s if not _is_number(wait_s) else str(min(float(wait_s), LONGEST_WAIT_S))
    if "follow" in holder:
        holder["follow"] = "false"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
