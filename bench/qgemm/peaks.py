"""What the processor and the memory can do: the limits of a product with a packed weight, measured in the same run.

Operations are dot products in registers: float32 multiply-adds (`limit`), bfloat16 pairs and int8 quadruples where the
processor has them (AVX-512 BF16; AVX-512 VNNI or AVX-VNNI). Bytes are those of an array far larger than any cache, read
once from end to end. AMX tiles are not counted: where there are some, a peer may pass the limit.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import limit

ARRAY = 1 << 28  # bytes: several times any cache that one of these benches has met
ROUNDS = 10_000_000  # tens of milliseconds: starting threads does not show
STREAMS = 4
# CHAINS as in `limit`. The empty asm makes every step depend on the one before, whatever the compiler knows. Memory is
# read in STREAMS places at once, which prefetchers like a little better than one (34 against 31 GB/s on a Zen 5 core)
# and than eight (30).
SOURCE = """
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AVX512VNNI__)
typedef __m512i integers;
#define DOT_INT8(x, a, b) _mm512_dpbusd_epi32(x, a, b)
#elif defined(__AVXVNNI__)
typedef __m256i integers;
#define DOT_INT8(x, a, b) _mm256_dpbusd_avx_epi32(x, a, b)
#endif
#if defined(DOT_INT8)
long int8_operations(void) { return 2 * CHAINS * sizeof(integers); }
void int8_chains(long rounds) {
    integers x[CHAINS] = {0}, a, b;
    __builtin_memset(&a, 1, sizeof a);
    __builtin_memset(&b, 2, sizeof b);
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) {
            x[i] = DOT_INT8(x[i], a, b);
            __asm__ volatile("" : "+v"(x[i]));
        }
}
#else
long int8_operations(void) { return 0; }
void int8_chains(long rounds) {}
#endif
#if defined(__AVX512BF16__)
long bfloat16_operations(void) { return CHAINS * sizeof(__m512bh); }
void bfloat16_chains(long rounds) {
    __m512 x[CHAINS] = {0};
    __m512bh a, b;
    __builtin_memset(&a, 0, sizeof a);
    __builtin_memset(&b, 0, sizeof b);
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) {
            x[i] = _mm512_dpbf16_ps(x[i], a, b);
            __asm__ volatile("" : "+v"(x[i]));
        }
}
#else
long bfloat16_operations(void) { return 0; }
void bfloat16_chains(long rounds) {}
#endif
typedef long line __attribute__((vector_size(64)));
void read_bytes(const char *from, long bytes) {
    line sum[STREAMS] = {0};
    long part = bytes / STREAMS / sizeof(line);
    const line *lines = (const line *)from;
    for (long i = 0; i < part; ++i)
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; ++s) sum[s] += lines[s * part + i];
    for (int s = 0; s < STREAMS; ++s) __asm__ volatile("" : : "m"(sum[s]));
}
""".replace("CHAINS", str(limit.CHAINS)).replace("STREAMS", str(STREAMS))

Peaks = dict[str, limit.Peak | None]


def measured_peaks(threads: int) -> Peaks:
    """Operations per second in "float32", "bfloat16" and "int8", and "bytes" per second; None for what the processor
    does not have, or a missing compiler left unmeasured."""
    found: Peaks = {"float32": limit.peak(threads), "bfloat16": None, "int8": None, "bytes": None}
    library = _compile()
    if library is None:
        return found
    for kind in ("bfloat16", "int8"):
        operations = getattr(library, f"{kind}_operations")
        operations.restype = ctypes.c_long
        if operations():
            chains = getattr(library, f"{kind}_chains")
            chains.argtypes = (ctypes.c_long,)
            work = threads * ROUNDS * operations()
            measure = partial(_rate, work, [partial(chains, ROUNDS)] * threads)
            found[kind] = limit.Peak(measure, "dot products in registers")
    library.read_bytes.argtypes = (ctypes.c_void_p, ctypes.c_long)
    array = np.ones(ARRAY, np.uint8)
    share = ARRAY // threads
    readers = [partial(_read, library, array, thread * share, share) for thread in range(threads)]
    found["bytes"] = limit.Peak(partial(_rate, ARRAY, readers), f"{ARRAY >> 20} MB read once, {STREAMS} streams")
    return found


def _read(library: ctypes.CDLL, array: np.ndarray[Any, Any], start: int, count: int) -> None:
    library.read_bytes(array.ctypes.data + start, count)


def _rate(work: int, workers: Sequence[Callable[[], Any]]) -> float:
    """`work` per second of the workers side by side; ctypes gives the interpreter lock up during a call."""
    threads = [threading.Thread(target=worker) for worker in workers]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return work / (time.perf_counter() - start)


def _compile() -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peaks.so"
        command = [compiler, *limit.FLAGS, "-o", str(path)]
        done = subprocess.run(command, input=SOURCE.encode(), capture_output=True, check=False)
        return ctypes.CDLL(str(path)) if done.returncode == 0 else None


def last_level_cache() -> int:
    """Bytes; 32 MB where the system does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
    except OSError:
        return 32 << 20
    return int(text.rstrip("KM")) << (20 if text.endswith("M") else 10)
