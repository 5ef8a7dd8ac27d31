"""Checkpoints of many sessions and owners in one place: where each owner's are, and how they are listed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from ..model import CheckpointView
from ..store.manifest import Manifest, Verdict

#: Hidden state, and names in which IPython keeps inputs and outputs.
_OF_THE_SHELL = re.compile(r"<.*>|_+|_i{1,3}|_i?[0-9]+|__warningregistry__")


def owners_address(store: str, owner: str) -> str:
    """The owner's part of a store that many share.

    Parts of their own, because chunks can only be collected by who can read every manifest that may need them, and so
    that one owner's quota is no business of the others.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", owner)[:32]
    return f"{store.rstrip('/')}/{readable}-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"


def is_users(name: str) -> bool:
    """Whether a name in a manifest is a variable of the user's: neither hidden state nor what IPython keeps."""
    return _OF_THE_SHELL.fullmatch(name) is None


def variables(verdicts: Mapping[str, Verdict]) -> int:
    """How many variables of the user's there are after a restore: what people are told wherever they are told it."""
    return sum(verdict.outcome != "lost" and is_users(name) for name, verdict in verdicts.items())


def view_of(manifest: Manifest) -> CheckpointView:
    """The checkpoint as it is listed."""
    costs = manifest.costs
    return CheckpointView(
        id=manifest.id,
        session=manifest.session,
        cell=manifest.cell,
        label=manifest.label,
        created_s=manifest.created_s,
        parent=manifest.parent,
        epoch=manifest.epoch,
        names=variables(manifest.names),
        host_bytes=costs.host_bytes,
        device_bytes=costs.device_bytes,
        looked_bytes=costs.looked_bytes,
        copied_bytes=costs.copied_bytes,
        written_bytes=costs.written_bytes,
        stall_s=costs.stall_s,
        capture_s=costs.capture_s,
        lost=notes(manifest.names, "lost"),
        rebuilt=notes(manifest.names, "rebuilt", "replayed"),
    )


def notes(verdicts: dict[str, Verdict], *outcomes: str) -> dict[str, str]:
    """Names with one of these outcomes, and what is noted of them."""
    return {name.strip("<>"): verdict.note for name, verdict in verdicts.items() if verdict.outcome in outcomes}
