"""How the service and its nodes log: lines for people, or JSON objects with session and epoch for machines."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

_ID = re.compile(r"\b[0-9a-f]{32}\b")
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One object a line.

    A message of ours that is about a session holds its id; the epoch is asked for, so that no message has to carry it.
    Leases and checkpoints have ids that look the same, so what nobody knows as a session is none.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Epoch of a session; None for what is not known as one. Set by who knows sessions.
        self.epoch_of: Callable[[str], int | None] = lambda session_id: None
        #: What each line of this process is about.
        self.about: dict[str, Any] = {}

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        message = record.getMessage()
        line: dict[str, Any] = {
            "time_s": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **self._session_in(message),
            **self.about,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()

    def _session_in(self, message: str) -> dict[str, Any]:
        for found in _ID.findall(message):
            epoch = self.epoch_of(found)
            if epoch is not None:
                return {"session": found, "epoch": epoch}
        return {}


#: The one that is in use, where there is one.
formatter = JsonFormatter()


def log_to_stderr(log_format: str) -> None:
    """Set up the process's log (setting ``log_format``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter if log_format == "json" else logging.Formatter(_LINE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpcore", "uvicorn", "websockets", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
