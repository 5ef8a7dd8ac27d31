"""The one place where errors of the operating system become errors of a store."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import QuotaReached, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def store_errors(action: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise QuotaReached(
                f"{action}: the disk is full.", hint="Free room on it, or forget checkpoints and collect."
            ) from error
        raise StoreError(f"{action}: {error}.") from error
