"""How the service logs: lines for people, or one JSON object a line, with session and epoch, for machines."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

_SESSION = re.compile(r"\b[0-9a-f]{32}\b")
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One object a line.

    A message of ours that is about a session holds its id; the epoch is asked for, so that no message has to carry it.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Epoch of a session; None where it is not known. Set by the controller.
        self.epoch_of: Callable[[str], int | None] = lambda session_id: None

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        message = record.getMessage()
        line: dict[str, Any] = {
            "time_s": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        found = _SESSION.search(message)
        if found is not None:
            line["session"] = found.group()
            epoch = self.epoch_of(found.group())
            if epoch is not None:
                line["epoch"] = epoch
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


#: The one that is in use, where there is one.
formatter = JsonFormatter()


def log_to_stderr(log_format: str) -> None:
    """Set up the process's log (setting ``log_format``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter if log_format == "json" else logging.Formatter(_LINE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpcore", "uvicorn", "websockets", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
