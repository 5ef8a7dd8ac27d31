"""A user of a benchmark, in a process of its own: cells at a steady pace, and how long each took.

``python user.py CONNECTION CELLS_PER_S CODE`` prints, for each cell, when it was sent (seconds since the epoch) and how
long it took until its reply and its idle. It ends when its standard input does.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from rows import ZmqClient

WAIT_S = 120.0


class User:
    """Has run its first cell when it is made, and runs more until ``stop``.

    Whatever else the benchmark does meanwhile, it does in another process.

    Raises
    ------
    RuntimeError
        A cell was not answered, or failed; also of ``stop``. The process has said which, on its standard error.
    """

    def __init__(self, connection: str, cells_per_s: float, code: str) -> None:
        words = [sys.executable, str(Path(__file__)), connection, str(cells_per_s), code]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        #: When each was sent, and how long it took until its reply and its idle.
        self.cells: list[tuple[float, float]] = []
        assert self._process.stdout is not None
        self._note(self._process.stdout.readline() or self._failed())

    def stop(self) -> None:
        """Let the last cell end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        for line in self._process.stdout:
            self._note(line)
        if self._process.wait():
            self._failed()

    @staticmethod
    def _failed() -> NoReturn:
        raise RuntimeError("a cell of the benchmark's user was not answered, or failed")

    def _note(self, line: str) -> None:
        sent_s, took_s = map(float, line.split())
        self.cells.append((sent_s, took_s))


def main() -> None:
    connection, cells_per_s, code = sys.argv[1:]
    over = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    client = ZmqClient(connection)
    while not over.is_set():
        sent_s = time.time()
        heard = client.run(code, quiet_s=WAIT_S)
        if heard.done_s is None or heard.status != "ok":
            raise SystemExit(f"a cell was not answered: {heard}")
        print(sent_s, heard.done_s, flush=True)
        over.wait(max(0.0, 1 / float(cells_per_s) - heard.done_s))


if __name__ == "__main__":
    main()
