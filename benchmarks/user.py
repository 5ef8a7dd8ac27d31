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

from rows import ZmqClient

WAIT_S = 120.0


class User:
    """Runs cells in a kernel until it is told to ``stop``; then it has when each was sent, and how long it took.

    Whatever else the benchmark does meanwhile, it does in another process.
    """

    def __init__(self, connection: str, cells_per_s: float, code: str) -> None:
        words = [sys.executable, str(Path(__file__)), connection, str(cells_per_s), code]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.cells: list[tuple[float, float]] = []
        self._note(self._line())

    def stop(self) -> None:
        """Let its last cell end.

        Raises
        ------
        RuntimeError
            A cell failed.
        """
        rest, _ = self._process.communicate("")
        if self._process.returncode:
            raise RuntimeError("a user's cell was not answered")
        for line in rest.splitlines():
            self._note(line)

    def took_s(self, since_s: float, until_s: float) -> list[float]:
        """How long the cells took that were sent within this time."""
        return [took_s for sent_s, took_s in self.cells if since_s <= sent_s < until_s]

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

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
