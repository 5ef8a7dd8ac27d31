"""Digests that find what changed: 128 bits for each chunk, computed where the memory lies.

Four sums over the words of a chunk: of each word, the two halves, each plus a half of a key that belongs to its place,
are multiplied. That is NH of UMAC, whose sums stay equal for contents that differ with a chance of 2**-32 each; it
takes three instructions a word and sum. The sums are folded into two numbers of 64 bits.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
from collections.abc import Sequence
from typing import Any

from . import kernels
from .kernels import SUMS, Unavailable
from .memory import DIGEST_BYTES

log = logging.getLogger(__name__)

#: Bytes that are digested at once by operations of a library; what that needs besides is about three times as much.
_SLAB_BYTES = 64 << 20
_HALF = (1 << 32) - 1
_FOLD = -8796714831421723037


def torch_digests(whole: Any, chunk_bytes: int) -> list[bytes]:
    """Of a flat tensor of bytes."""
    return torch_digests_together([whole], chunk_bytes)[0]


def torch_digests_together(wholes: Sequence[Any], chunk_bytes: int) -> list[list[bytes]]:
    """Of flat tensors of bytes on one device; it is asked for them once."""
    torch = sys.modules["torch"]
    if not wholes:
        return []
    device = wholes[0].device
    counts = [-(-int(whole.numel()) // chunk_bytes) for whole in wholes]
    with torch.inference_mode():
        sums, first = torch.zeros((sum(counts), SUMS), dtype=torch.int64, device=device), 0
        for whole, count in zip(wholes, counts, strict=True):
            part = sums[first : first + count]
            launch = _kernel_for(whole, chunk_bytes)
            if launch is None:
                part.copy_(by_operations(torch, whole, chunk_bytes, {"device": device}))
            else:
                launch(whole, chunk_bytes, part)
            first += count
        made = folded(sums)
        found = split(made.cpu().contiguous().numpy().tobytes())
    ends = list(itertools.accumulate(counts))
    return [found[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _kernel_for(whole: Any, chunk_bytes: int) -> Any:
    if not whole.is_cuda or not kernels.fits(whole.data_ptr(), whole.numel(), chunk_bytes):
        return None
    return _kernel_of_torch(whole.device.index)


@functools.cache
def _kernel_of_torch(index: int) -> Any:
    """The kernel, which adds to zeroed sums; None where there is none that keeps its word."""
    torch = sys.modules["torch"]
    device = torch.device("cuda", index)

    def digests(whole: Any, chunk_bytes: int, sums: Any) -> None:
        stream = torch.cuda.current_stream(device).cuda_stream
        with torch.cuda.device(device):
            launch(whole.data_ptr(), int(whole.numel()), chunk_bytes, sums.data_ptr(), stream)

    try:
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # its context is current in this thread now
            launch = kernels.launcher(index, "sm_{}{}".format(*torch.cuda.get_device_capability(device)))
        for chunk_bytes in (1 << 20, 1 << 10):
            # Not random: the user's generators stay where they are.
            sample = torch.arange(3 * (1 << 18) + 2, dtype=torch.int32, device=device)
            sample = (sample * 0x1E3779B1).view(torch.uint8)[: 3 * (1 << 20) + 5]
            expected = by_operations(torch, sample, chunk_bytes, {"device": device})
            sums = torch.zeros((len(expected), SUMS), dtype=torch.int64, device=device)
            digests(sample, chunk_bytes, sums)
            if not torch.equal(sums, expected):
                raise Unavailable("its digests are wrong")
    except Exception as error:  # of a library, a driver or a compiler: digests are slower then, and no more
        log.info("memory of cuda:%d is digested without a kernel of our own: %s", index, error)
        return None
    return digests


def cupy_digests(cupy: Any, whole: Any, chunk_bytes: int) -> list[bytes]:
    """Of a flat array of bytes of cupy, whose device is the current one."""
    digests = None
    if kernels.fits(int(whole.data.ptr), int(whole.size), chunk_bytes):
        launch = _kernel_of_cupy(int(whole.data.device_id))
        digests = launch(whole, chunk_bytes) if launch else None
    if digests is None:
        digests = by_operations(cupy, whole, chunk_bytes, {})
    return split(cupy.asnumpy(folded(digests)).tobytes())


@functools.cache
def _kernel_of_cupy(index: int) -> Any:
    cupy = sys.modules["cupy"]

    def digests(whole: Any, chunk_bytes: int) -> Any:
        size = int(whole.size)
        made = cupy.zeros((-(-size // chunk_bytes), SUMS), dtype=cupy.int64)
        launch(int(whole.data.ptr), size, chunk_bytes, int(made.data.ptr), int(cupy.cuda.get_current_stream().ptr))
        return made

    try:
        cupy.cuda.runtime.deviceSynchronize()
        launch = kernels.launcher(index, f"sm_{cupy.cuda.Device(index).compute_capability}")
        sample = (cupy.arange(3 * (1 << 18) + 2, dtype=cupy.int32) * 0x1E3779B1).view(cupy.uint8)[: 3 * (1 << 20) + 5]
        if not (digests(sample, 1 << 20) == by_operations(cupy, sample, 1 << 20, {})).all():
            raise Unavailable("its digests are wrong")
    except Exception as error:
        log.info("memory of cuda:%d is digested without a kernel of our own: %s", index, error)
        return None
    return digests


def by_operations(xp: Any, whole: Any, chunk_bytes: int, place: dict[str, Any]) -> Any:
    """The sums of each chunk, by operations of torch, numpy or cupy."""
    if chunk_bytes % 8:
        raise ValueError("a chunk is a multiple of 8 bytes")
    words = chunk_bytes // 8
    keys = _keys(xp.arange(words + SUMS - 1, dtype=xp.int64, **place))
    low_keys, high_keys = keys & _HALF, (keys >> 32) & _HALF
    size = int(whole.shape[0])
    slab = max(1, _SLAB_BYTES // chunk_bytes) * chunk_bytes
    found = [xp.zeros((0, SUMS), dtype=xp.int64, **place)]
    for begin in range(0, size, slab):
        part = whole[begin : min(begin + slab, size)]
        length = int(part.shape[0])
        if length % chunk_bytes:
            padded = xp.zeros(-(-length // chunk_bytes) * chunk_bytes, dtype=xp.uint8, **place)
            padded[:length] = part
            part = padded
        x = part.view(xp.int64).reshape(-1, words)
        low, high = x & _HALF, (x >> 32) & _HALF
        sums = []
        for first in range(SUMS):
            product = (low + low_keys[first : first + words]) & _HALF
            product *= (high + high_keys[first : first + words]) & _HALF
            sums.append(product.sum(1))
        found.append(xp.stack(sums, 1))
    return xp.concatenate(found)


def folded(sums: Any) -> Any:
    """Two numbers of each four sums."""
    return sums[:, ::2] * _FOLD + sums[:, 1::2]


def _keys(index: Any) -> Any:
    """By the finalizer of splitmix64, in numbers with a sign."""
    z = (index + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def split(digests: bytes) -> list[bytes]:
    """Into those of the single chunks."""
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]
