"""The clients of one session: who is attached, and how far each of them is."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..config import Settings
from ..wire.link import adopt
from .attachment import Arrivals, Attachment, AttachmentOwner

MOVING = "the session is moving to another node."


class _Place(NamedTuple):
    """Where a client goes on."""

    inbox: Arrivals
    #: Number of the last record that it has, or counts as having.
    start: int
    #: It has come before.
    known: bool
    #: Its host knows how many of its requests have come.
    counted: bool
    #: It has heard more than its host knows of.
    behind: bool


class Clients:
    """Those that are attached, and those that may come back.

    Parameters
    ----------
    owner
        Who gets their requests, and has the journal.
    """

    def __init__(self, owner: AttachmentOwner, settings: Settings) -> None:
        self._owner = owner
        self._settings = settings
        self._attached: dict[str, Attachment] = {}
        self._inboxes: OrderedDict[str, Arrivals] = OrderedDict()
        #: Highest record number that ever went out to one that has left.
        self._sent = 0
        #: Since when there is none.
        self.unattended_since_s = time.time()

    def __len__(self) -> int:
        return len(self._attached)

    @property
    def sent(self) -> int:
        """Highest record number that ever went out to a client, wholly or in part."""
        return max([self._sent, *(attachment.sent for attachment in self._attached.values())])

    @property
    def received(self) -> dict[str, int]:
        """How many requests of each client have come."""
        return {client: inbox.last for client, inbox in self._inboxes.items()}

    def take_over(self, received: Mapping[str, int], sent: int) -> None:
        """Go on with those of the session's former host."""
        self._inboxes = OrderedDict((client, Arrivals(last)) for client, last in received.items())
        self._sent = sent
        self.unattended_since_s = time.time()

    # -- coming and going --------------------------------------------------------------------------------------

    async def attach(
        self,
        connection: Any,
        head: bytes,
        rest: bytes,
        client: str,
        after: int | None,
        journal: str,
        *,
        epoch: int | None,
        may: Callable[[], bool],
        welcome: Callable[[], dict[str, Any]],
    ) -> bool | None:
        """One opens its link, for the first time or again; its former link is closed.

        Parameters
        ----------
        after, journal
            The last record that it has, and of which journal; None and empty when it has none.
        epoch
            Of the host whose welcome it has read last. One that was sent may never have come; None where it does not
            say.
        may
            Whether clients are let in.
        welcome
            What each is told of the session.

        Returns
        -------
        Whether it is new; None when it is not attached.
        """
        s = self._settings
        place = self._place(client, after, journal, epoch)
        attachment = Attachment(
            self._owner, client, place.inbox, place.start, message_bytes=s.message_bytes, frame_bytes=s.frame_bytes
        )
        link = await adopt(
            connection, head, rest, attachment, frame_bytes=s.frame_bytes, ping_s=s.ping_s, silence_s=s.silence_s
        )
        if link.closed:
            return None
        if not may():  # any more: it was none of those that were told to go
            link.close(MOVING, 1001)
            return None
        # Handshakes that a stalled network held back arrive together, so another link of this client may have come
        # during the adoption. Only one is fed; the other is closed, and its client, if there is one, opens a new one.
        former = self._attached.pop(client, None)
        if former is not None:
            former.close("opened again elsewhere", 1001)
            self._sent = max(self._sent, former.sent)
        # What went to a client that then vanished may have reached the user, or not.
        self._sent = self.sent
        self._attached[client] = attachment
        received = place.inbox.safe(self._owner.journal.whole) if place.counted else None
        told = {"received": received, "behind": place.behind, "sent": self._sent, "message_bytes": s.message_bytes}
        attachment.begin(link, {**welcome(), **told})
        return not place.known

    def left(self, attachment: Attachment) -> bool:
        """Its link has ended; False if it was not that of an attached client any more."""
        self._sent = max(self._sent, attachment.sent)
        if self._attached.get(attachment.client) is not attachment:
            return False
        del self._attached[attachment.client]
        if not self._attached:
            self.unattended_since_s = time.time()
        return True

    def let_go(self, op: dict[str, Any], reason: str) -> None:
        """Tell all, and end their links."""
        for attachment in list(self._attached.values()):
            attachment.send_op(op)
            attachment.close(reason, 1001)

    def _place(self, client: str, after: int | None, journal: str, epoch: int | None) -> _Place:
        mine = self._owner.journal
        if epoch is None:
            unread = () if client in self._inboxes else mine.losses[-1:]
        else:  # Nor has it read a welcome of any host after the first of them.
            unread = tuple(loss for loss in mine.losses if loss.epoch > epoch)
        # What is up to here it has as this host has it.
        same = unread[0].last if unread else mine.last
        behind = journal == mine.id and after is not None and after > same
        if behind or (journal and journal != mine.id):
            # What it has is of a host that was lost, and so is its count of requests.
            after = None
            self._inboxes.pop(client, None)
        known = client in self._inboxes
        counted = after is None or (known and not unread)
        inbox = self._inboxes.setdefault(client, Arrivals())
        self._inboxes.move_to_end(client)
        self._forget_some(client)
        start = mine.acknowledged if after is None else after
        return _Place(inbox, same if behind else start, known, counted, behind)

    def _forget_some(self, newest: str) -> None:
        """Of those that are not attached, the ones that have not come for longest, where there are too many."""
        surplus = len(self._inboxes) - self._settings.clients_remembered
        if surplus > 0:
            away = [each for each in self._inboxes if each not in self._attached and each != newest]
            for client in away[:surplus]:
                del self._inboxes[client]

    # -- what they get -----------------------------------------------------------------------------------------

    def send_op(self, op: dict[str, Any]) -> None:
        """Tell all."""
        for attachment in self._attached.values():
            attachment.send_op(op)

    def flushed(self, data: bytes | None) -> None:
        """The journal has grown by ``data``, or by more than is worth handing around."""
        for attachment in list(self._attached.values()):
            attachment.flushed(data)

    def pump(self) -> None:
        """Send all what the journal has."""
        for attachment in list(self._attached.values()):
            attachment.pump()

    def start_anew(self, reason: str) -> None:
        """Cut all links: a part of what was sent has been taken back."""
        for attachment in list(self._attached.values()):
            attachment.start_anew(reason)
