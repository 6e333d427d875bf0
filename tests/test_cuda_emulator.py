"""The emulator of tests/native/cuda_emulator: its tensor instructions, and that it finds faults of device code."""

from __future__ import annotations

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import emulated

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


# The layouts as CUTLASS has them (MMA_Traits of SM80_16x8x16_F32BF16BF16F32_TN and SM80_16x8x32_S32S8S8S32_TN):
# strides of lane % 4, of lane / 4, and of the values of a lane, the first fastest, into column-major [rows, k],
# [columns, k] and [rows, columns]. csrc/cuda/device/instructions.cuh has them as the PTX ISA states them.
STRIDES = {
    "a16": (32, 1, (16, 8, 128), (2, 2, 2)),
    "b16": (16, 1, (8, 64), (2, 2)),
    "a8": (64, 1, (16, 8, 256), (4, 2, 2)),
    "b8": (32, 1, (8, 128), (4, 2)),
    "c": (32, 1, (16, 8), (2, 2)),
}


def fragment_places(name):
    """Column-major index of value v of lane l, [32, values]."""
    by_lane, by_group, strides, sizes = STRIDES[name]
    counts = [index[::-1] for index in itertools.product(*[range(size) for size in sizes[::-1]])]
    values = [sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in counts]
    return np.array([[lane % 4 * by_lane + lane // 4 * by_group + value for value in values] for lane in range(32)])


def fragments(matrix, name):
    return matrix.T.reshape(-1)[fragment_places(name)]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int8"])
def test_fragments_of_the_tensor_instructions(emulator, kind):
    generator = np.random.default_rng(1)
    depth = 32 if kind == "int8" else 16
    if kind == "int8":
        a, b = generator.integers(0, 256, (16, depth)), generator.integers(-128, 128, (8, depth))
        words = [part.astype(np.uint8) for part in (fragments(a, "a8"), fragments(b, "b8"))]
        c = generator.integers(-1000, 1000, (16, 8)).astype(np.int32)
    else:  # integers, so that the sum has no rounding
        a, b = generator.integers(-9, 10, (16, depth)), generator.integers(-9, 10, (8, depth))
        words = [emulated.to_bits(fragments(part, name), kind) for part, name in ((a, "a16"), (b, "b16"))]
        c = generator.integers(-9, 10, (16, 8)).astype(np.float32)
    got = emulator.mma(kind, words[0], words[1], fragments(c, "c"))
    np.testing.assert_array_equal(got, fragments(c + a @ b.T, "c"))


def test_load_matrices(emulator):
    """The eight rows of matrix i come from lanes 8 i ...; a lane has two neighbours of a row, or of a column."""
    rows = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    for transposed in (False, True):
        words = np.zeros((32, 4), np.uint32)
        emulator.library.emulated_matrices(
            int(transposed), ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(words.ctypes.data)
        )
        values = words.view(np.uint16).reshape(32, 4, 2)
        for lane in range(32):
            g, t = divmod(lane, 4)
            for i in range(4):
                wanted = rows[i, 2 * t : 2 * t + 2, g] if transposed else rows[i, g, 2 * t : 2 * t + 2]
                np.testing.assert_array_equal(values[lane, i], wanted)


# The same of a warpgroup (ALayout_64x16, ALayout_64x32, CLayout_64xN of CUTLASS's mma_traits_sm90_gmma.hpp): strides of
# lane % 4, of lane / 4, of the warp, and of the values of a thread.
WARPGROUP_STRIDES = {
    "a16": (128, 1, 16, (64, 8, 512), (2, 2, 2)),
    "a8": (256, 1, 16, (64, 8, 1024), (4, 2, 2)),
    "c": (128, 1, 16, (64, 8, 512), (2, 2, None)),
}


def warpgroup_fragments(matrix, name):
    by_lane, by_group, by_warp, strides, sizes = WARPGROUP_STRIDES[name]
    sizes = [size or matrix.shape[1] // 8 for size in sizes]
    counts = [index[::-1] for index in itertools.product(*[range(size) for size in sizes[::-1]])]
    values = np.array([sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in counts])
    thread = np.arange(128)
    places = thread % 4 * by_lane + thread % 32 // 4 * by_group + thread // 32 * by_warp
    return matrix.T.reshape(-1)[places[:, None] + values]


def swizzled(rows):
    """Bytes as CUTLASS's Swizzle<3, 4, 3> of their addresses places them: bits 7 to 9 onto bits 4 to 6."""
    flat = rows.reshape(-1)
    plain = np.arange(flat.size)
    placed = np.empty_like(flat)
    placed[plain ^ (plain >> 7 & 7) << 4] = flat
    return placed


@pytest.mark.parametrize("columns", [64, 128])
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int8"])
def test_products_of_a_warpgroup(emulator, kind, columns):
    generator = np.random.default_rng(3)
    depth, name = (32, "a8") if kind == "int8" else (16, "a16")
    if kind == "int8":
        a, b = generator.integers(0, 256, (2, 64, depth)), generator.integers(-128, 128, (columns, 128))
        words = [warpgroup_fragments(part, name).astype(np.uint8) for part in a]
        rows = b.astype(np.int8).view(np.uint8)
        c = generator.integers(-1000, 1000, (64, columns)).astype(np.int32)
    else:
        a, b = generator.integers(-9, 10, (2, 64, depth)), generator.integers(-9, 10, (columns, 64))
        words = [emulated.to_bits(warpgroup_fragments(part, name), kind) for part in a]
        rows = emulated.to_bits(b, kind).view(np.uint8)
        c = generator.integers(-9, 10, (64, columns)).astype(np.float32)
    atoms = swizzled(rows)
    own = np.stack([part.view(np.uint32).reshape(128, 4) for part in words], axis=1)
    got, said = emulator.atoms(kind, own, atoms, warpgroup_fragments(c, "c"))
    assert said == ""
    expected = c + a[0] @ b[:, :depth].T + a[1] @ b[:, depth : 2 * depth].T
    np.testing.assert_array_equal(got, warpgroup_fragments(expected, "c"))
    careless, said = emulator.atoms(kind, own, atoms, warpgroup_fragments(c, "c"), careless=1)
    assert "never waited for" in said
    assert not np.array_equal(careless, got)
    _, said = emulator.atoms(kind, own, atoms, warpgroup_fragments(c, "c"), careless=2)
    assert "not fenced" in said


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("way", ["rows", "both"])
def test_other_operands_of_a_warpgroup(emulator, way, kind):
    """b by rows (MN-major: ((T,8,m),(8,k)):((1,T,LBO),(8T,SBO)) in CUTLASS's comment on make_gmma_desc), where a row
    has 64 columns and the next 64 lie beside all its rows; a in shared memory, as b by columns."""
    generator = np.random.default_rng(4)
    for columns in (64, 128) if way == "rows" else (64,):
        a, b = generator.integers(-9, 10, (64, 64)), generator.integers(-9, 10, (64, columns))
        c = generator.integers(-9, 10, (64, columns)).astype(np.float32)
        own = np.zeros((128, 2, 4), np.uint32)
        if way == "rows":
            words = [emulated.to_bits(warpgroup_fragments(a[:, 16 * i : 16 * i + 16], "a16"), kind) for i in range(2)]
            own = np.stack([part.view(np.uint32).reshape(128, 4) for part in words], axis=1)
            slabs = [b[:, column : column + 64] for column in range(0, columns, 64)]
        else:
            slabs = [np.ascontiguousarray(b.T), a]
        shared = np.concatenate([swizzled(emulated.to_bits(slab, kind).view(np.uint8)) for slab in slabs])
        got, said = emulator.atoms(kind, own, shared, warpgroup_fragments(c, "c"), way=way)
        assert said == ""
        np.testing.assert_array_equal(got, warpgroup_fragments(c + a[:, :32] @ b[:32], "c"))


def test_descriptors_of_matrices(emulator):
    """What CUTLASS's make_gmma_desc gives, run on a processor, for tiles of 16-bit elements with Swizzle<3, 4, 3>:
    K-major [64, 64], and MN-major [128, 64] whose second 64 columns lie 8192 bytes on. An address keeps 18 bits."""
    descriptor = emulator.library.emulated_descriptor
    assert descriptor(0x12400, 16, 1024) == 0x4000004000011240
    assert descriptor(0x37000, 8192, 1024) == 0x4000004002003700
    assert descriptor(0x77000, 8192, 1024) == 0x4000004002003700


def test_float16_is_rounded_as_numpy_rounds_it(emulator):
    generator = np.random.default_rng(2)
    values = generator.standard_normal(2000) * 2.0 ** generator.uniform(-30, 20, 2000)
    values = np.concatenate([values, [0.0, -0.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-24, np.inf]])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float16).view(np.uint16)
    got = [emulator.float_to_float16(float(value)) for value in values.astype(np.float32)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no wait", "read before it was copied"),
        ("lane leaves", "divergence"),
        ("two collectives", "divergence"),
        ("different collectives", "divergence: came to mma_float16 while others wait at mma_bfloat16"),
        ("outside", "access outside of every array"),
        ("outside shared", "access outside of every array"),
        ("not aligned", "not aligned"),
        ("bulk copy not waited for", "read before it was copied"),
        ("too few announced", "cop"),  # more than announced, or one that nobody waits for
        ("too many announced", "waits at wait_phase for threads that never come"),
        ("nobody arrives", "waits at wait_phase for threads that never come"),
        ("barrier not published", "a barrier that was not published"),
        ("copy not shown to a product", "a product reads a copy that was not shown to it"),
        ("copied under a product", "an operand of a product that changes while it is under way"),
    ],
)
def test_faults_are_found(emulator, fault, message):
    emulated.schedule(0)  # the order decides who is said to have come to what
    for reverse in (False, True):
        found = emulator.fault(fault, reverse)
        if fault == "different collectives" and reverse:
            message = "divergence: came to mma_bfloat16 while others wait at mma_float16"
        assert message in found, found


def test_a_missing_barrier_is_found_in_one_order_or_the_other(emulator):
    assert "read before it was written" in emulator.fault("no barrier", False) + emulator.fault("no barrier", True)


SEEDS = range(1, 9)


def test_an_adversary_finds_what_neither_order_finds(emulator):
    """A warp hands a stage back before all of its lanes have read it."""
    emulated.schedule(0)
    fault, found = "stage handed back too early", 0
    assert emulator.fault(fault, False) == emulator.fault(fault, True) == ""
    for seed in SEEDS:
        emulated.schedule(seed)
        said = emulator.fault(fault, False)
        assert said == "" or "read after it was handed back" in said or "threads that never come" in said, said
        found += said != ""
        assert "read before it was written" in emulator.fault("no barrier", False), seed
        for right in ("none", "right bulk copy", "stage handed back by all"):
            assert emulator.fault(right, False) == "", seed
    assert found >= len(SEEDS) // 4  # of blocks: a kernel of many has as many adversaries


def test_a_seed_is_one_order(emulator):
    said = []
    for seed in (1, 2, 1):
        emulated.schedule(seed)
        said.append(emulator.fault("no barrier", False))
    assert said[0] == said[2] != said[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_shared_memory_begins_at_a_multiple_of_1024_or_not(emulator, seed):
    emulated.schedule(seed)
    begins = [emulator.library.emulated_shared_begin() for _ in range(64)]
    assert all(begin % 128 == 0 for begin in begins)
    assert 16 < sum(begin % 1024 == 0 for begin in begins) < 48


def test_correct_code_passes_and_conflicts_are_counted(emulator):
    for fault in ("none", "right bulk copy", "copy shown to a product"):
        assert emulator.fault(fault, False) == emulator.fault(fault, True) == ""
    emulator.bank_conflicts()
    assert emulator.fault("bank conflict", False) == ""
    assert emulator.bank_conflicts() == 4 * 7  # 8 lanes of each quarter in the same banks


CALLS = {
    "a copy on the device": lambda cuda, stream, there: cuda.cudaMemcpyAsync(there, there, 8, 4, stream),
    "a copy from the host": lambda cuda, stream, there: cuda.cudaMemcpyAsync(there, bytes(8), 8, 4, stream),
    "an allocation": lambda cuda, stream, there: cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), 8),
    "a release": lambda cuda, stream, there: cuda.cudaFree(there),
    "a wait": lambda cuda, stream, there: cuda.cudaStreamSynchronize(None),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_may_not_be_done_while_a_stream_is_captured(emulator, call):
    """It is refused, and what was recorded is void, as CUDA has it in thread-local mode; another thread may."""
    cuda, stream, graph, there = emulator.library, ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert cuda.cudaStreamCreateWithFlags(ctypes.byref(stream), 1) == 0
    assert cuda.cudaMalloc(ctypes.byref(there), 8) == 0

    def captured(run):
        assert cuda.cudaStreamBeginCapture(stream, 1) == 0
        return run(), cuda.cudaStreamEndCapture(stream, ctypes.byref(graph)), graph.value is not None

    refused = (900, 901, False)
    assert captured(lambda: CALLS[call](cuda, stream, there)) == ((0, 0, True) if "device" in call else refused)
    if call == "an allocation":
        with ThreadPoolExecutor() as others:
            assert captured(lambda: others.submit(CALLS[call], cuda, stream, there).result()) == (0, 0, True)
    assert cuda.cudaStreamDestroy(stream) == 0
