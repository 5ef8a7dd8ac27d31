"""Temporary files and folders with a name: made again if they are gone, and deleted by whom they were deleted by.

A restore in place drops the old object, whose end would delete what the new one has: the old one is disarmed.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from .filecontent import WHOLE_BYTES, kept, write_new
from .registry import Context, NotRestorable, restoring, rule

_alive: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


@rule("tempfile._TemporaryFileWrapper")
def reduce_named(wrapper: Any, context: Context) -> Any:
    state = vars(wrapper)
    closer = state["_closer"]
    _alive[wrapper.name] = wrapper
    how = (closer.delete_on_close,) if hasattr(closer, "delete_on_close") else ()
    return named, (type(wrapper), state["file"], wrapper.name, closer.delete, *how)


def named(kind: Any, file: Any, name: str, delete: bool, *how: bool) -> Any:
    old = _alive.get(name)
    if old is not None:
        vars(old)["_closer"].delete = False
    wrapper = kind.__new__(kind)
    ended = not os.path.exists(name)
    kind.__init__(wrapper, file, name, delete, *how)
    if ended:
        wrapper._closer.close_called = wrapper._closer.cleanup_called = True
    _alive[name] = wrapper
    return wrapper


@rule("tempfile.TemporaryDirectory")
def reduce_folder(folder: Any, context: Context) -> Any:
    state = {name: value for name, value in vars(folder).items() if name != "_finalizer"}
    if not os.path.isdir(folder.name):
        return make_folder, (type(folder), state, None, False)
    _alive[folder.name] = folder
    context.escaped("files")
    context.rebuilt("a temporary folder, with what is in it made again if it is gone")
    return make_folder, (type(folder), state, _tree(folder.name), folder._finalizer.alive)


def make_folder(kind: Any, state: dict[str, Any], tree: list[tuple[Any, ...]] | None, owned: bool) -> Any:
    folder = kind.__new__(kind)
    folder.__dict__.update(state)
    name = folder.name
    old = _alive.get(name)
    if old is not None:
        old._finalizer.detach()
    if tree is None and owned:
        if not os.path.isdir(name):
            raise NotRestorable(f"is a temporary folder with more in it than is kept, and {name} does not exist here")
        restoring().remark(f"what is in {name} is what is there now; there was too much in it to keep")
    elif tree is not None:
        _make(name, tree)
    ignore = state.get("_ignore_cleanup_errors", False)
    more = {"delete": state["_delete"]} if "_delete" in state else {}
    folder._finalizer = weakref.finalize(
        folder, kind._cleanup, name, warn_message=f"Implicitly cleaning up {folder!r}", ignore_errors=ignore, **more
    )
    if not owned:
        folder._finalizer.detach()
    _alive[name] = folder
    return folder


def _tree(root: str) -> list[tuple[Any, ...]] | None:
    """What is in a folder: relative path, permissions, and content, link target or (for a folder) nothing."""
    tree: list[tuple[Any, ...]] = []
    left = WHOLE_BYTES
    for place, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = os.path.join(place, name)
            relative = os.path.relpath(path, root)
            if os.path.islink(path):
                tree.append((relative, 0, os.readlink(path)))
                continue
            mode = os.stat(path).st_mode & 0o777
            if name in folders:
                tree.append((relative, mode, None))
                continue
            left -= os.path.getsize(path) if os.path.isfile(path) else left + 1
            if left < 0:
                return None
            with open(path, "rb") as file:
                tree.append((relative, mode, kept(file.read())))
    return tree


def _make(root: str, tree: list[tuple[Any, ...]]) -> None:
    if os.path.isdir(root):
        if not _is_same(root, tree):
            restoring().remark(f"what is in {root} has changed since the checkpoint, and was left as it is")
        return
    os.makedirs(root, 0o700)
    for relative, mode, content in tree:
        path = os.path.join(root, relative)
        if isinstance(content, str):
            os.symlink(content, path)
        elif content is None:
            os.mkdir(path, mode)
        else:
            write_new(path, content, mode)
    restoring().remark(f"{root} did not exist and was made again as it was at the checkpoint")


def _is_same(root: str, tree: list[tuple[Any, ...]]) -> bool:
    now = _tree(root)
    return now is not None and [_plain(entry) for entry in now] == [_plain(entry) for entry in tree]


def _plain(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    relative, mode, content = entry
    return relative, mode, content if content is None or isinstance(content, str) else bytes(content)
