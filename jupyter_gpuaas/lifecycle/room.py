"""How much of which device is held, what has room beside that, and who would have to go to make room. Pure.

A device is held as a whole, or in parts by several. A part is an agreement: nothing bounds what its holder computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..model import CUDA, Device, ResourceRequest

#: Slack for sums of parts.
ATOM = 1e-6

Used = dict[str, dict[str, float]]  # node id -> device id -> how much of it is held; 1 is all


class Held(Protocol):
    """Devices of one node, of each the same part."""

    @property
    def node_id(self) -> str: ...
    @property
    def device_ids(self) -> tuple[str, ...]: ...
    @property
    def share(self) -> float: ...


H = TypeVar("H")


def used_of(held: Iterable[Held]) -> Used:
    """How much is held."""
    used: Used = {}
    for each in held:
        hold(used.setdefault(each.node_id, {}), each)
    return used


def hold(used: dict[str, float], held: Held) -> None:
    """Count it among what is used of its node."""
    for device_id in held.device_ids:
        used[device_id] = used.get(device_id, 0.0) + held.share


def free(used: dict[str, float], held: Held) -> None:
    """Count it no more."""
    for device_id in held.device_ids:
        left = used.get(device_id, 0.0) - held.share
        if left > ATOM:
            used[device_id] = left
        else:
            used.pop(device_id, None)


def amount(request: ResourceRequest) -> float:
    """How many devices a request is for; of one a part, perhaps."""
    return request.devices * request.share


def room(request: ResourceRequest, fits: Sequence[Device], used: Mapping[str, float]) -> tuple[str, ...] | None:
    """Devices that the request could have now, of a shared one the fullest; None where there are not enough.

    Parameters
    ----------
    fits
        Those of one node that would do, the best first.
    used
        How much of each is held.
    """
    if request.share < 1:
        left = [each for each in fits if used.get(each.id, 0.0) + request.share <= 1 + ATOM]
        best = min(left, key=lambda each: (each.kind != CUDA, -used.get(each.id, 0.0)), default=None)
        return None if best is None else (best.id,)
    whole = [each.id for each in fits if each.id not in used]
    return tuple(whole[: request.devices]) if len(whole) >= request.devices else None


def opens(request: ResourceRequest, device_ids: Sequence[str], used: Mapping[str, float]) -> bool:
    """Whether a device that nobody holds would be held in part."""
    return request.share < 1 and device_ids[0] not in used


def who_goes(
    request: ResourceRequest,
    fits: Sequence[Device],
    used: Mapping[str, float],
    order: Sequence[H],
    held: Callable[[H], Held],
) -> list[H] | None:
    """Who of these has to go, so that the request has room on their node; None where even all of them do not help.

    The first of them go first, and no more than needed.
    """
    left = dict(used)
    ids = {device.id for device in fits}
    going: list[H] = []
    for each in order:
        if room(request, fits, left) is not None:
            break
        if not ids.isdisjoint(held(each).device_ids):
            free(left, held(each))
            going.append(each)
    if room(request, fits, left) is None:
        return None
    # Parts may have been freed on more devices than one.
    for each in reversed(going[:-1]):
        hold(left, held(each))
        if room(request, fits, left) is not None:
            going.remove(each)
        else:
            free(left, held(each))
    return going
