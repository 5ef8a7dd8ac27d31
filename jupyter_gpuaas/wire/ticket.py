"""Tickets: what a client shows an agent to open a session's channel.

A ticket is ``session.epoch.expires.user.mac``; the MAC is keyed with the session's secret, which only the controller
and the session's host know. So an agent can check a client without asking the controller, and a restart of the
controller interrupts nobody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from ..errors import StaleEpoch, Unauthorized

#: User of the tickets that open what a host hands to its successor, and nothing else.
TRANSFER_USER = "gpuaas-transfer"


def issue(secret: str, *, session_id: str, epoch: int, user: str, expires_s: float) -> str:
    """Make a ticket; ``expires_s`` is seconds since the epoch."""
    name = base64.urlsafe_b64encode(user.encode()).decode().rstrip("=")
    claims = f"{session_id}.{epoch}.{int(expires_s)}.{name}"
    return f"{claims}.{_mac(secret, claims)}"


def check(ticket: str, secret: str, *, session_id: str, epoch: int, now_s: float) -> str:
    """Return the user that the ticket was issued to.

    Raises
    ------
    Unauthorized
        No ticket, a forged one, one of another session, or an expired one.
    StaleEpoch
        The session has changed its host since.
    """
    claims, _, mac = ticket.rpartition(".")
    parts = claims.split(".")
    if len(parts) != 4 or not hmac.compare_digest(mac.encode(), _mac(secret, claims).encode()):
        raise Unauthorized("ticket: missing or not genuine.", hint="Ask the service for a new one.")
    of_session, of_epoch, expires, name = parts
    if of_session != session_id:
        raise Unauthorized("ticket: is for another session.")
    if int(expires) < now_s:
        raise Unauthorized("ticket: has expired.", hint="Ask the service for a new one.")
    if int(of_epoch) != epoch:
        raise StaleEpoch(int(of_epoch), epoch)
    return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()


def _mac(secret: str, claims: str) -> str:
    return hmac.new(secret.encode(), claims.encode(), hashlib.sha256).hexdigest()
