"""Digests of chunks by a CUDA kernel of our own: one pass over the memory, where torch's operations take some forty.

Compiled with NVRTC, which torch and cupy bring along, and launched through the driver. Where any of that is missing,
or where its digests are not those of `digests.by_operations`, which is tried first, those operations do the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Sums of a digest. They become two numbers, by pairs, when they are complete; see `digests.folded`.
SUMS = 4

#: Smaller memory is digested by torch before a kernel is compiled.
WORTH_BYTES = 4 << 20
#: Bytes of a vector that a thread loads at once: memory and chunks must be aligned to that.
_VECTOR = 16
_THREADS = 256
#: Vectors of a chunk that one thread takes, and chunks that a block takes: keys are made once for all of these.
_VECTORS, _CHUNKS = 4, 8
#: CU_STREAM_CAPTURE_MODE_RELAXED.
_RELAXED = 2
_WORDS = _THREADS * _VECTORS * 2

_KERNEL = """
typedef unsigned long long u64;
typedef unsigned int u32;

// The key of a word: what the finalizer of splitmix64 gives for its place.
__device__ __forceinline__ u64 key(u64 place) {
    u64 z = (place + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

__device__ __forceinline__ u64 product(u64 x, u64 k) {
    return (u64)((u32)x + (u32)k) * (u64)((u32)(x >> 32) + (u32)(k >> 32));
}

// Zeros from the end of the memory to the end of its last chunk.
__device__ __noinline__ ulonglong2 last(const unsigned char* at, u64 left) {
    u64 words[2] = {0, 0};
    for (u64 byte = 0; byte < 16 && byte < left; ++byte) words[byte / 8] |= (u64)at[byte] << (8 * (byte % 8));
    return make_ulonglong2(words[0], words[1]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
chunk_digests(const unsigned char* data, u64 size, u64 chunk, u64 chunks, u64* digests) {
    __shared__ u64 sums[THREADS / 32][CHUNKS][SUMS];
    const u64 first = ((u64)blockIdx.x * VECTORS * THREADS + threadIdx.x) * 2, words = chunk / 8;
    // The sums take the keys of one place after the other.
    u64 keys[VECTORS][SUMS + 1];
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int s = 0; s <= SUMS; ++s) keys[v][s] = key(first + (u64)v * 2 * THREADS + s);
    const u64 from = (u64)blockIdx.y * CHUNKS;
    const bool inside = (u64)(blockIdx.x + 1) * VECTORS * THREADS * 2 <= words;
    for (int c = 0; c < CHUNKS; ++c) {
        u64 sum[SUMS] = {};
        ulonglong2 x[VECTORS];
        const u64 start = (from + c) * chunk + first * 8;
        if (inside && (from + c + 1) * chunk <= size) {
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
                x[v] = *(const ulonglong2*)(data + start + v * 16 * THREADS);
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
#pragma unroll
                for (int s = 0; s < SUMS; ++s)
                    sum[s] += product(x[v].x, keys[v][s]) + product(x[v].y, keys[v][s + 1]);
        } else if (from + c < chunks) {
            for (int v = 0; v < VECTORS; ++v) {
                const u64 at = start + (u64)v * 16 * THREADS;
                if (first + (u64)v * 2 * THREADS >= words) break;
                const ulonglong2 y = at + 16 <= size ? *(const ulonglong2*)(data + at)
                                     : at < size     ? last(data + at, size - at)
                                                     : make_ulonglong2(0, 0);
                for (int s = 0; s < SUMS; ++s) {
                    const u64 place = first + (u64)v * 2 * THREADS + s;
                    sum[s] += product(y.x, key(place)) + product(y.y, key(place + 1));
                }
            }
        }
#pragma unroll
        for (int s = 0; s < SUMS; ++s) {
#pragma unroll
            for (int lane = 16; lane; lane /= 2) sum[s] += __shfl_xor_sync(0xFFFFFFFFu, sum[s], lane);
            if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32][c][s] = sum[s];
        }
    }
    __syncthreads();
    if (threadIdx.x < SUMS * CHUNKS) {
        const u32 c = threadIdx.x / SUMS, s = threadIdx.x % SUMS;
        if (from + c < chunks) {
            u64 whole = 0;
            for (int warp = 0; warp < THREADS / 32; ++warp) whole += sums[warp][c][s];
            atomicAdd(&digests[(from + c) * SUMS + s], whole);
        }
    }
}
"""


def _source() -> str:
    values = {"THREADS": _THREADS, "VECTORS": _VECTORS, "CHUNKS": _CHUNKS, "SUMS": SUMS}
    return "".join(f"#define {name} {value}\n" for name, value in values.items()) + _KERNEL


class Unavailable(RuntimeError):
    """There is no kernel here."""


def fits(address: int, size: int, chunk_bytes: int) -> bool:
    """Whether the kernel can digest such memory, and is worth it."""
    return size >= WORTH_BYTES and address % _VECTOR == 0 and chunk_bytes % _VECTOR == 0


def blocks(size: int, chunk_bytes: int) -> tuple[int, int, int]:
    """The grid for a memory, and how many chunks it has."""
    chunks = -(-size // chunk_bytes)
    return -(-chunk_bytes // 8 // _WORDS), -(-chunks // _CHUNKS), chunks


def compiled(architecture: str) -> bytes:
    """Machine code for a device such as ``sm_90``. Raises ``Unavailable``."""
    library = _nvrtc()
    program = ctypes.c_void_p()

    def call(name: str, *arguments: Any) -> None:
        if getattr(library, name)(*arguments) != 0:
            raise Unavailable(f"{name} failed for {architecture}")

    call("nvrtcCreateProgram", ctypes.byref(program), _source().encode(), b"digests.cu", 0, None, None)
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
        call("nvrtcCompileProgram", program, 1, options)
        size = ctypes.c_size_t()
        call("nvrtcGetCUBINSize", program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        call("nvrtcGetCUBIN", program, code)
        return code.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


#: Address, size, chunk size, address of the zeroed digests, stream.
Launch = Callable[[int, int, int, int, int], None]


@functools.cache
def launcher(index: int, architecture: str) -> Launch:
    """The kernel on a device whose context is current in this thread. Raises ``Unavailable``."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unavailable(str(error)) from None
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    code = compiled(architecture)
    if driver.cuModuleLoadData(ctypes.byref(module), code):
        raise Unavailable("the driver does not take the kernel")
    if driver.cuModuleGetFunction(ctypes.byref(function), module, b"chunk_digests"):
        raise Unavailable("the driver does not find the kernel")

    def launch(address: int, size: int, chunk_bytes: int, digests: int, stream: int) -> None:
        across, down, chunks = blocks(size, chunk_bytes)
        values = [ctypes.c_ulonglong(value) for value in (address, size, chunk_bytes, chunks, digests)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        result = driver.cuLaunchKernel(
            function, *(ctypes.c_uint(n) for n in (across, down, 1, _THREADS, 1, 1, 0)),
            ctypes.c_void_p(stream), pointers, None,
        )  # fmt: skip
        if result:
            raise Unavailable(f"the driver answers {result} to a launch")

    return launch


@contextlib.contextmanager
def beside_captures() -> Iterator[None]:
    """What this thread does with CUDA inside is no part of a graph that another thread captures, and does not end it.

    Only work on streams of one's own may be done so.
    """
    try:
        exchange = ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
    except (OSError, AttributeError):
        yield
        return
    mode = ctypes.c_int(_RELAXED)
    exchange(ctypes.byref(mode))  # gives the mode until now
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


@functools.cache
def _nvrtc() -> Any:
    """NVRTC as the library that torch or cupy brought along, or the system's."""
    tried = []
    for path in _places():
        try:
            # NVRTC opens its other half by name, which the loader knows only if it is loaded already.
            for other in Path(path).parent.glob("libnvrtc-builtins.so.*") if "/" in path else ():
                ctypes.CDLL(str(other))
            return ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
    raise Unavailable(f"no NVRTC: {'; '.join(tried)}")


def _places() -> list[str]:
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    major = str(cuda or "").partition(".")[0]
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [str(path) for folder in folders for path in sorted(folder.glob(f"*/lib/libnvrtc.so.{major or '*'}"))]
    return [*found, *([f"libnvrtc.so.{major}"] if major else []), "libnvrtc.so"]
