"""Stands for CRIU on a Linux that marks written pages: what it is told must be what CRIU's own rules allow.

Run as a program. The "memory" of the tree is the file ``memory`` beside it; ``tracked`` is what that was when written
pages were last unmarked, and after which dump. ``refuse`` beside it lets the next command fail, when pages were
unmarked already: the worst moment. A restore writes ``restored``.

CRIU's rules, from its sources (4.2: ``criu/mem.c``, ``criu/image.c``, ``criu/cr-dump.c``): a round always marks; a
dump leaves pages to its parent only with --track-mem; the parent is named relative to the folder of the dump, is there
before, and becomes the link ``parent``; pages that are in the parent are found by that link at a restore.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

PAGE = 4096


def pages(data: bytes) -> list[bytes]:
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def fail(text: str) -> int:
    print(f"Error (stand-in:1): {text}")
    return 1


def dump(home: Path, asked: argparse.Namespace) -> int:
    folder, parent = Path(asked.images_dir), asked.prev_images_dir
    if [path.name for path in folder.iterdir()]:
        return fail("the folder of a dump is not empty")
    tracked = home / "tracked"
    before, after = (b"", "")
    if parent:
        if parent.startswith("/") or not (folder / parent / "pagemap.json").exists():
            return fail("the parent is not there, or not named relative to the folder")
        if not asked.track_mem:
            return fail("a dump with a parent that marks nothing would be whole")
        (folder / "parent").symlink_to(parent)
        state = json.loads(tracked.read_text())
        before, after = bytes.fromhex(state["memory"]), state["after"]
        if Path(after).resolve() != (folder / parent).resolve():
            return fail("pages were unmarked after another dump than the parent")
    if asked.command == "dump" and not asked.leave_stopped:
        return fail("the tree would be killed")
    memory = (home / "memory").read_bytes()
    known = pages(before)
    in_parent = [
        bool(parent) and number < len(known) and known[number] == page for number, page in enumerate(pages(memory))
    ]
    if asked.command == "pre-dump" or asked.track_mem:
        tracked.write_text(json.dumps({"memory": memory.hex(), "after": str(folder)}))
    if (home / "refuse").exists():
        (home / "refuse").unlink()
        return fail("something that CRIU does not know")
    written = [page for page, is_in_parent in zip(pages(memory), in_parent, strict=True) if not is_in_parent]
    (folder / "pages-1.img").write_bytes(b"".join(written))
    (folder / "pagemap.json").write_text(json.dumps(in_parent))
    (folder / "criu.log").write_text("no part of it")
    return 0


def restore(home: Path, asked: argparse.Namespace) -> int:
    (home / "restored").write_bytes(b"".join(whole(Path(asked.images_dir))))
    return 0


def whole(folder: Path) -> list[bytes]:
    own = pages((folder / "pages-1.img").read_bytes())
    in_parent = json.loads((folder / "pagemap.json").read_text())
    below = whole(folder / "parent") if any(in_parent) else []
    return [below[number] if inside else own.pop(0) for number, inside in enumerate(in_parent)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["pre-dump", "dump", "restore"])
    for name in ("tree", "images-dir", "prev-images-dir", "log-file", "manage-cgroups", "ghost-limit"):
        parser.add_argument(f"--{name}", default="")
    for name in ("track-mem", "leave-stopped", "tcp-close", "file-locks", "link-remap", "restore-detached"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("-v1", action="store_true")
    asked = parser.parse_args()
    home = Path(sys.argv[0]).parent
    return (restore if asked.command == "restore" else dump)(home, asked)


if __name__ == "__main__":
    sys.exit(main())
