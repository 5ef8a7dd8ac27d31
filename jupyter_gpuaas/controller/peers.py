"""Where a host in standby gets what the session's former host has."""

from __future__ import annotations

import time

from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.model import Peer
from jupyter_gpuaas.wire import ticket

#: The user in the tickets with which hosts get state from each other; no person is called so.
TRANSFER_USER = "gpuaas-transfer"
#: A move that takes longer than this fails, and the session goes on where it was.
TICKET_S = 6 * 3600.0


def peer_of(record: SessionRecord, engine: Engine, node_id: str, epoch: int) -> Peer:
    """The former host on a node, with a ticket.

    Raises
    ------
    TransportError
        The node does not answer now.
    """
    session_id = record.session.id
    return Peer(
        url=f"{engine.agent(node_id).url}/v1/sessions/{session_id}/transfer",
        ticket=ticket.issue(
            record.secret,
            session_id=session_id,
            epoch=epoch,
            user=TRANSFER_USER,
            expires_s=time.time() + TICKET_S,
        ),
    )
