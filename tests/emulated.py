"""The CUDA kernels on the CPU: builds tests/native/cuda_emulator once per session and calls it."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tqs_fast import kernels
from tqs_fast._native import core

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/native/cuda_emulator"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""

DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
KERNELS = ("simple", "gemv", "tiles", "warpgroups")


class Weight(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("codes", "scales", "zeros")],
        *[(name, ctypes.c_int64) for name in ("rows", "columns", "group_size")],
        ("bits", ctypes.c_int),
    )


class Task(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("y_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int),
        ("int8", ctypes.c_int),
    )


class Device(ctypes.Structure):
    """An H200, unless told otherwise; `kernel` (a number), `columns` and `splits` other than 0 must be the plan's."""

    _fields_ = (
        *[(name, ctypes.c_int) for name in ("multiprocessors", "shared_per_block", "shared_per_multiprocessor")],
        ("bytes_per_cycle", ctypes.c_double),
        *[(name, ctypes.c_int) for name in ("warpgroups", "kernel", "columns", "splits")],
    )

    def __init__(self, columns: int = 0, splits: int = 0, kernel: str = "simple", **values: Any) -> None:
        default = {
            "multiprocessors": 132, "shared_per_block": 232448, "shared_per_multiprocessor": 233472,
            "bytes_per_cycle": 20.7, "warpgroups": 1,
        }  # fmt: skip
        super().__init__(**{**default, **values}, kernel=KERNELS.index(kernel), columns=columns, splits=splits)


class Plan(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int) for name in ("kernel", "columns", "splits", "output_blocks", "row_blocks")],
        ("workspace", ctypes.c_int64),
        ("cycles", ctypes.c_double),
    )


def to_bits(values: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Values as the bits of `dtype` (float32, float64: as numbers), nearest, ties to even."""
    if dtype == "float64":
        return np.asarray(values, np.float64)
    wide = np.asarray(values, np.float32)
    if dtype == "float32":
        return wide
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return wide.astype(np.float16).view(np.uint16)
    bits = wide.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(wide), np.uint16(0x7FC0), rounded)


def from_bits(bits: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """The values of what `to_bits` returns; of 16 bits in float32."""
    if dtype in ("float32", "float64"):
        return bits
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@functools.cache
def emulator() -> Emulator:
    """The emulated kernels, compiled by the first process of a session (pytest -n) that asks, in conftest's folder."""
    folder = Path(os.environ["TQS_EMULATOR_FOLDER"])
    library, failed = folder / "emulated.so", folder / "failed"
    try:
        (folder / "objects").mkdir()
    except FileExistsError:  # another process is at it, or done
        while not library.exists():
            assert not failed.exists(), "another process could not compile the emulated kernels"
            time.sleep(0.1)
    else:
        try:
            _build(folder / "objects").rename(library)
        except BaseException:
            failed.touch()
            raise
    return Emulator(ctypes.CDLL(str(library)))


def schedule(seed: int) -> None:
    """The order of threads and blocks from now on (emulator.h), here and in a build with TQS_CUDA=EMULATED."""
    os.environ["TQS_EMULATOR_SEED"] = str(seed)  # for an emulator that is loaded later
    if emulator.cache_info().currsize:
        emulator().library.emulated_schedule(ctypes.c_uint64(seed))
    if core.cuda_architectures() == "emulated":
        ctypes.CDLL(core.__file__).emulated_schedule(ctypes.c_uint64(seed))


def _build(folder: Path) -> Path:
    cuda = ROOT / "csrc/cuda"
    # the engine is built with TQS_CUDA=EMULATED
    excluded = ("table", "no_warpgroups", "no_attention_warpgroups", "device", "cublas_lt_library")
    kernels = [path for part in (cuda, cuda / "program") for path in sorted(part.iterdir())]
    kernels = [path for path in kernels if path.suffix in (".cpp", ".cu") and path.stem not in excluded]
    sources = [*sorted(FOLDER.glob("*.cpp")), *kernels, *sorted(ROOT.glob("csrc/program/chain*.cpp"))]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        flags = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command = [COMPILER, *flags, f"-I{FOLDER}", f"-I{ROOT / 'csrc'}", "-x", "c++", "-c", str(source)]
        command += ["-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as executor:
        objects = list(executor.map(compiled, sources))
    target = folder / "emulated.so"
    subprocess.run([COMPILER, "-shared", *map(str, objects), "-o", str(target)], check=True)
    return target


class Guarded:
    """An array of the emulator: what lies behind it may not be touched. Filled with 0xFF."""

    def __init__(self, library: ctypes.CDLL, shape: tuple[int, ...], dtype: Any) -> None:
        self._library, self._bytes = library, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.address: int = library.emulated_allocate(ctypes.c_int64(self._bytes))
        buffer = (ctypes.c_ubyte * self._bytes).from_address(self.address)
        self.array = np.frombuffer(buffer, np.uint8)[: int(np.prod(shape)) * np.dtype(dtype).itemsize]
        self.array = self.array.view(dtype).reshape(shape)

    def __del__(self) -> None:
        self._library.emulated_release(ctypes.c_void_p(self.address), ctypes.c_int64(self._bytes))


@dataclass
class Prepared:
    """A weight with its form for the GPU."""

    view: Weight
    arrays: list[Guarded]
    panels: Guarded
    shape: tuple[int, int]


class Emulator:
    """The library; arrays go in and out as numpy."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.emulated_allocate.restype = ctypes.c_void_p
        library.emulated_bank_conflicts.restype = ctypes.c_int64
        library.emulated_weight_bytes.restype = ctypes.c_int64
        library.emulated_prepack.restype = ctypes.c_char_p
        library.emulated_dequantize.restype = ctypes.c_char_p
        library.emulated_multiply.restype = ctypes.c_char_p
        library.emulated_plan.restype = Plan
        library.emulated_bytes_per_cycle.restype = ctypes.c_double
        library.emulated_fault.restype = ctypes.c_char_p
        library.emulated_atoms.restype = ctypes.c_char_p
        library.emulated_descriptor.restype = ctypes.c_uint64
        library.emulated_float_to_float16.restype = ctypes.c_uint16

    def guarded(self, values: np.ndarray[Any, Any]) -> Guarded:
        copy = Guarded(self.library, values.shape, values.dtype)
        copy.array[...] = values
        return copy

    def view(self, packed: kernels.PackedWeight) -> Prepared:
        """The weight, not prepacked."""
        parts = [self.guarded(part) for part in (packed.codes, packed.scales, packed.zeros) if part is not None]
        addresses = [part.address for part in parts] + [None] * (3 - len(parts))
        view = Weight(*addresses, *packed.shape, packed.group_size, packed.bits)
        return Prepared(view, parts, Guarded(self.library, (0,), np.uint8), packed.shape)

    def prepack(self, packed: kernels.PackedWeight) -> Prepared:
        weight = self.view(packed)
        size = self.library.emulated_weight_bytes(ctypes.byref(weight.view))
        panels = Guarded(self.library, (size,), np.uint8)
        self._check(self.library.emulated_prepack(ctypes.byref(weight.view), ctypes.c_void_p(panels.address)))
        return Prepared(weight.view, weight.arrays, panels, packed.shape)

    def dequantize(self, packed: kernels.PackedWeight) -> np.ndarray[Any, Any]:
        weight, out = self.view(packed), Guarded(self.library, packed.shape, np.float32)
        self._check(self.library.emulated_dequantize(ctypes.byref(weight.view), ctypes.c_void_p(out.address)))
        return out.array.copy()

    def plan(self, weight: Prepared, task: Task, device: Device) -> Plan:
        plan = self.library.emulated_plan(ctypes.byref(weight.view), ctypes.byref(task), ctypes.byref(device))
        assert isinstance(plan, Plan)
        return plan

    def plan_of(self, weight: Prepared, rows: int, dtype: str, int8: bool, device: Device) -> Plan:
        """How `rows` aligned rows would be multiplied."""
        columns = -(-weight.shape[1] // 8) * 8
        task = Task(0, columns, rows, None, 0, weight.shape[0], DTYPES[dtype], int(int8))
        return self.plan(weight, task, device)

    def multiply(
        self,
        x: np.ndarray[Any, Any],
        weight: Prepared,
        bias: np.ndarray[Any, Any] | None = None,
        *,
        dtype: str,
        int8: bool = False,
        stride: int | None = None,
        device: Device | None = None,
        reverse: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Plan]:
        """y [M, N] as bits of `dtype` (float32: as floats), and how it was computed.

        x [M, K] holds bits of `dtype`; rows lie `stride` elements apart, with poison between them.
        """
        device = device or Device()
        rows, columns = x.shape
        stride = stride or columns
        wide = Guarded(self.library, (rows * stride,), x.dtype)
        for row in range(rows):
            wide.array[row * stride : row * stride + columns] = x[row]
        out = Guarded(self.library, (rows, weight.shape[0]), x.dtype)
        own_bias = None if bias is None else self.guarded(bias.astype(np.float32))
        task = Task(
            wide.address, stride, rows, None if own_bias is None else own_bias.address, out.address, weight.shape[0],
            DTYPES[dtype], int(int8),
        )  # fmt: skip
        plan = self.plan(weight, task, device)
        workspace = Guarded(self.library, (plan.workspace,), np.uint8)
        workspace.array[: 4 * 4096] = 0
        self.library.emulated_reverse(int(reverse))
        self._check(
            self.library.emulated_multiply(
                ctypes.byref(weight.view), ctypes.c_void_p(weight.panels.address), ctypes.byref(task),
                ctypes.byref(device), ctypes.c_void_p(workspace.address),
            )
        )  # fmt: skip
        assert not workspace.array[: 4 * 4096].any(), "a counter is not back at zero"
        return out.array.copy(), plan

    def mma(self, kind: str, a: Any, b: Any, c: Any) -> np.ndarray[Any, Any]:
        """c + a b of one tensor instruction, all by lane."""
        a, b, c = (np.array(part, order="C") for part in (a, b, c))
        number = ("bfloat16", "float16", "int8").index(kind)
        self.library.emulated_mma(number, *(ctypes.c_void_p(part.ctypes.data) for part in (a, b, c)))
        return c

    def atoms(
        self, kind: str, a: Any, shared: Any, c: Any, *, way: str = "columns", careless: int = 0
    ) -> tuple[Any, str]:
        """c + two products of a warpgroup, a and c by thread, and what was said (`careless`: probes.cpp). `way`: how
        operands lie in shared memory, b by columns, b by rows, or b by columns and then a."""
        a, shared, c = (np.array(part, order="C") for part in (a, shared, c))
        number = ("bfloat16", "float16", "int8").index(kind)
        pointers = [ctypes.c_void_p(part.ctypes.data) for part in (a, shared, c)]
        said = self.library.emulated_atoms(
            number, ("columns", "rows", "both").index(way), len(c[0]) * 2, *pointers[:2],
            ctypes.c_int64(shared.size), pointers[2], careless,
        )  # fmt: skip
        return c, said.decode()

    def float_to_float16(self, value: float) -> int:
        return int(self.library.emulated_float_to_float16(ctypes.c_float(value)))

    def fault(self, name: str, reverse: bool) -> str:
        """What the emulator says of a kernel with the named fault (probes.cpp)."""
        said = self.library.emulated_fault(name.encode(), int(reverse))
        assert isinstance(said, bytes)
        return said.decode()

    @contextmanager
    def shared_limit(self, size: int) -> Iterator[None]:
        """Within: a device whose blocks have `size` bytes of shared memory."""
        self.library.emulated_shared_limit(ctypes.c_int64(size))
        try:
            yield
        finally:
            self.library.emulated_shared_limit(ctypes.c_int64(Device().shared_per_block))

    @contextmanager
    def capability(self, major: int) -> Iterator[None]:
        """Within: a device of this compute capability."""
        self.library.emulated_capability(major)
        try:
            yield
        finally:
            self.library.emulated_capability(9)

    def bank_conflicts(self) -> int:
        """Of 16-byte loads from shared memory since the last call."""
        return int(self.library.emulated_bank_conflicts())

    @staticmethod
    def _check(problem: bytes | None) -> None:
        if problem is not None:
            raise AssertionError(problem.decode())
