"""pandas: blocks and indexes that share memory know of each other, so that copy on write goes on.

Since pandas 3, frames that were derived from each other share memory until one of them is written to. Who shares is
kept in a `BlockValuesRefs` that their blocks and indexes have in common. pandas' own pickles leave it out: over arrays
that share memory again, a write to one frame would show in the others.
"""

from __future__ import annotations

import importlib
from typing import Any

from .registry import Context, rule


@rule("pandas._libs.internals.BlockValuesRefs", exact=True)
def reduce_references(references: Any, context: Context) -> Any:
    """Empty: those that share announce themselves when they are made."""
    return new_references, ()


def new_references() -> Any:
    return importlib.import_module("pandas._libs.internals").BlockValuesRefs()


@rule("pandas._libs.internals.Block")
def reduce_block(block: Any, context: Context) -> Any:
    return block_of, (type(block), block.values, block.mgr_locs.indexer, block.ndim, block.refs)


def block_of(kind: Any, values: Any, indexer: Any, ndim: int, references: Any) -> Any:
    placement = importlib.import_module("pandas._libs.internals").BlockPlacement(indexer)
    return kind(values, placement=placement, ndim=ndim, refs=references)


@rule("pandas.Index", "pandas.core.indexes.base.Index")
def reduce_index(index: Any, context: Context) -> Any:
    # A RangeIndex has no memory but what it makes when asked for it, and tells so by a property.
    references = index._references if type(index)._references is None else None
    reduced = index.__reduce_ex__(5)
    if references is None or not references.has_reference() or (len(reduced) > 2 and reduced[2] is not None):
        return reduced
    return *reduced[:2], references, None, None, join_references


def join_references(index: Any, references: Any) -> None:
    index._references = references
    references.add_index_reference(index)


@rule("pandas.core.internals.managers.SingleBlockManager", exact=True)
def reduce_single(manager: Any, context: Context) -> Any:
    """What is in a Series: its own pickle takes the values out of the block."""
    return single_of, (type(manager), manager.blocks[0], manager.axes[0])


def single_of(kind: Any, block: Any, axis: Any) -> Any:
    return kind(block, axis)


@rule("pandas.core.generic.NDFrame")
def reduce_frame(frame: Any, context: Context) -> Any:
    """A DataFrame or Series with attributes that somebody put on it; pandas leaves them out."""
    known = {*frame._metadata, *frame._accessors}  # an accessor such as `.str` is kept where it was first asked for
    put = {name: value for name, value in frame.__dict__.items() if name[0] != "_" and name not in known}
    if not put:
        return NotImplemented
    function, args, state, *_ = frame.__reduce_ex__(5)
    return function, args, (state, put), None, None, fill_frame


def fill_frame(frame: Any, state: tuple[Any, dict[str, Any]]) -> None:
    frame.__setstate__(state[0])
    frame.__dict__.update(state[1])
