"""What the widgets are told, as plain values, and how it looks where there are no widgets. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jupyter_gpuaas.model import CheckpointView, NodeView, SessionView
from jupyter_gpuaas.model.words import HEAD, amount, rows

Facts = Mapping[str, Any]


def allocation(view: SessionView, nodes: Sequence[NodeView]) -> dict[str, Any]:
    """A session, its node and its devices with what they do now."""
    session, lease = view.session, view.session.lease
    node = next((each for each in nodes if lease is not None and each.id == lease.node_id), None)
    devices = []
    for device in node.devices if node is not None and lease is not None else ():
        if lease is not None and device.id in lease.device_ids:
            sample = next((each for each in node.samples if each.device_id == device.id), None) if node else None
            devices.append(
                {
                    "id": device.id,
                    "label": device.label,
                    "memory_bytes": device.memory_bytes,
                    "used_bytes": sample.used_bytes if sample else 0,
                    "utilisation": sample.utilisation if sample else -1.0,
                    "share": lease.share,
                }
            )
    return {
        "id": session.id,
        "name": session.name,
        "state": session.state.value,
        "cause": session.cause,
        "queue_place": session.queue_place,
        "node": lease.node_id if lease is not None else "",
        "since_s": session.devices_since_s,
        "device_s": view.device_seconds,
        "parks_s": session.parks_s,
        "ends_s": session.ends_s,
        "devices": devices,
    }


def timeline(session: str, views: Sequence[CheckpointView]) -> dict[str, Any]:
    """A session's checkpoints, oldest first."""
    checkpoints = [
        {
            "id": view.id,
            "short": view.short,
            "cell": view.cell,
            "name": view.label,
            "created_s": view.created_s,
            "bytes": view.host_bytes + view.device_bytes,
            "new_bytes": view.written_bytes,
            "session": view.session,
            "stall_s": view.stall_s,
            "lost": dict(view.lost),
        }
        for view in views
    ]
    return {"session": session, "checkpoints": checkpoints, "rows": rows(views)}


def allocation_html(facts: Facts) -> str:
    """The allocation without a script."""
    state = f"{facts['state']}, place {facts['queue_place']} in the queue" if facts["queue_place"] else facts["state"]
    where = f" on {facts['node']}" if facts["node"] else ""
    lines = [f"<p><b>{escape(facts['name'])}</b>: {escape(state + where)}</p>"]
    for device in facts["devices"]:
        used, whole = device["used_bytes"], device["memory_bytes"]
        part = f"{device['share']:g} of " if device["share"] < 1 else ""
        said = f"{part}{device['id']} {device['label']}: {amount(used)} of {amount(whole)}"
        meter = f'<meter min="0" max="{max(1, whole)}" value="{used}" aria-label="{escape(said)}"></meter>'
        lines.append(f"<p>{meter} {escape(said)}</p>")
    return "".join(lines)


def timeline_html(facts: Facts) -> str:
    """The checkpoints without a script."""
    head = "".join(f'<th scope="col">{escape(each.capitalize())}</th>' for each in HEAD)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in facts["rows"])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
