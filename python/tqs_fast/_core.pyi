"""Private native module. Arrays are addresses (0 for none), sizes and strides in elements; see csrc/bindings."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

version: str
compiler: str

def isa() -> str: ...
def use_isa(name: str) -> None: ...
def isas() -> list[tuple[str, bool]]: ...
def kernels() -> list[tuple[str, str, str, bool]]: ...
def default_threads() -> int: ...
def cuda_built() -> bool: ...
def cuda_architectures() -> str: ...
def cuda_library() -> str: ...
def cuda_device_count() -> int: ...

class PackedView:
    def __init__(
        self, *, codes: int, scales: int, zeros: int, rows: int, columns: int, group_size: int, bits: int
    ) -> None: ...

class Prepared:
    @property
    def isa(self) -> str: ...

def quantize(
    *,
    weights: int,
    rows: int,
    columns: int,
    stride: int,
    bits: int,
    group_size: int,
    mse: bool,
    codes: int,
    scales: int,
    zeros: int,
    threads: int,
) -> None: ...
def dequantize(packed: PackedView, *, out: int, stride: int, threads: int) -> None: ...
def prepack(packed: PackedView) -> Prepared: ...
def qgemm(
    packed: PackedView,
    dtype: int,
    int8: bool,
    threads: int,
    x: int,
    x_stride: int,
    rows: int,
    bias: int,
    y: int,
    y_stride: int,
    /,
) -> None: ...
def qgemm_prepared(
    prepared: Prepared,
    dtype: int,
    int8: bool,
    threads: int,
    x: int,
    x_stride: int,
    rows: int,
    bias: int,
    y: int,
    y_stride: int,
    /,
) -> None: ...
def cuda_prepacked_bytes(packed: PackedView) -> int: ...
def round_cuda(
    *,
    weights: int,
    values: int,
    rows: int,
    columns: int,
    bits: int,
    group_size: int,
    symmetric: bool,
    mse: bool,
    device: int,
    stream: int,
) -> None: ...
def dequantize_cuda(packed: PackedView, out: int, device: int, stream: int, /) -> None: ...
def prepack_cuda(packed: PackedView, out: int, device: int, stream: int, /) -> None: ...
def qgemm_cuda(
    packed: PackedView,
    panels: int,
    dtype: int,
    int8: bool,
    workspace: int,
    workspace_bytes: int,
    device: int,
    stream: int,
    x: int,
    x_stride: int,
    rows: int,
    bias: int,
    y: int,
    y_stride: int,
    /,
) -> int: ...
def multiply(
    weight: Sequence[tuple[Prepared, bool]], x: int, x_stride: int, rows: int, bias: int, y: int, threads: int
) -> None:
    """y [rows, N] = x W.T + bias (0: none), float32, y dense; the weight as for `run_recurrent`."""

def run_recurrent(
    recurrence: int,
    size: int,
    reverse: bool,
    batch_sizes: Sequence[int],
    x: int,
    x_stride: int,
    input: Sequence[tuple[Prepared, bool]],
    input_bias: int,
    hidden: Sequence[tuple[Prepared, bool]],
    hidden_bias: int,
    projection: Sequence[tuple[Prepared, bool]],
    hidden_state: int,
    cell_state: int,
    out: int,
    threads: int,
) -> None:
    """csrc/quant/recurrent.h; a weight is its blocks of rows, each with whether its product rounds x to int8."""

class CompensatedWeight:
    """float32 `weights` [rows, columns], and where it is packed; scales and zeros are there already."""

    def __init__(
        self,
        *,
        weights: int,
        rows: int,
        columns: int,
        bits: int,
        group_size: int,
        codes: int,
        scales: int,
        zeros: int,
    ) -> None: ...

def eliminate(*, matrix: int, size: int, cost: int, sequence: int, diagonal: int, threads: int) -> None: ...
def compensate(
    weight: CompensatedWeight,
    *,
    factor: int,
    order: int,
    regroup: bool,
    mse: bool,
    diagonal: int,
    hessian: int,
    sweeps: int,
    threads: int,
) -> None: ...
def compensate_greedily(weight: CompensatedWeight, *, inverse: int, threads: int) -> None: ...
def fill_uniform(*, out: int, count: int, seed: int, stream: int, offset: int) -> None: ...
def fill_normal(*, out: int, count: int, seed: int, stream: int, offset: int) -> None: ...
def add_noise_cuda(
    *,
    from_: int,
    to: int,
    precision: int,
    elements: int,
    begin: int,
    count: int,
    scale: float,
    seed: int,
    stream: int,
    device: int,
    work: int,
) -> None: ...
def philox4x32_10(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...

class LaneArrays:
    """One address per lane (0: a tangent that is zero) of arrays of equal strides; no lanes: absent."""

    def __init__(self, lanes: Sequence[int], strides: Sequence[int]) -> None: ...

class AttentionProblem:
    def __init__(
        self,
        *,
        q: LaneArrays,
        k: LaneArrays,
        v: LaneArrays,
        mask: LaneArrays,
        out: LaneArrays,
        leading: Sequence[int],
        queries: int,
        keys: int,
        depth: int,
        width: int,
        precision: int,
        scale: float,
        causal: bool,
        causal_offset: int,
    ) -> None: ...

def attention(problem: AttentionProblem, *, threads: int) -> None: ...
def attention_cuda(problem: AttentionProblem, *, scratch: int, scratch_bytes: int, device: int, stream: int) -> int:
    """0; or, having done nothing, how many bytes of scratch it wants."""

def program_ops() -> list[str]: ...

class PackedWeight:
    """float32 or float64 `weight` [N, K] at an address, packed for the product of native programs."""

    def __init__(self, weight: int, *, n: int, k: int, precision: str) -> None: ...
    def multiply(self, *, rows: int, x: int, bias: int, y: int, repeats: int = 1) -> None:
        """y [rows, N] = x [rows, K] weight^T + bias [N] (0: none), `repeats` times."""

class PageLock:
    """Keeps `memory`, all that `held` owns, page-locked: a GPU copies from it beside other work."""

    def __init__(self, memory: int, *, bytes: int, device: int, held: object) -> None: ...

class Program:
    """`program` is a tqs_fast.capture.program.Program; `constants` its constant buffers -> address of the data,
    `packed` its packed weights, both in the memory of GPU `device`, or where that is -1 of this process. With
    `constants_here` the constants of a GPU's program lie in this process, too; `held` lives as long as the program."""

    def __init__(
        self,
        program: Any,
        *,
        constants: Mapping[int, int],
        packed: Sequence[PackedView],
        device: int,
        constants_here: bool,
        held: object,
    ) -> None: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def state_bytes(self) -> int: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def strips(self) -> list[tuple[int, int, int, int]]: ...

def orthonormalize(*, frame: int, size: int, directions: int, logs: int) -> float: ...
def run_stretching(
    program: Program,
    *,
    samples: int,
    directions: int,
    steps: int,
    interval: int,
    blocks: int,
    states: Sequence[int],
    inputs: Sequence[int],
    input_steps: int,
    frame: int,
    logs: int,
    condition: int,
    diverged: int,
    final_states: Sequence[int],
    final_frame: int,
    threads: int,
    stream: int,
) -> None: ...

class Variant:
    @overload
    def __init__(self, buffer: int, *, data: int) -> None: ...
    @overload
    def __init__(self, buffer: int, *, seed: int, stream: int, scale: float, begin: int, count: int) -> None: ...

def run_ensemble(
    program: Program,
    prologue: Program | None,
    *,
    samples: int,
    steps: int,
    states: Sequence[int],
    inputs: Sequence[int],
    input_steps: int,
    variants: Sequence[Variant],
    lanes: Sequence[Sequence[int]],
    values: int,
    reference: int,
    scale: int,
    errors: int,
    outputs: int,
    final_states: Sequence[int],
    threads: int,
    memory_limit: int,
    stream: int,
) -> dict[str, int]: ...

class WeightSeed:
    def __init__(self, buffer: int, *, tangent: int, data: int) -> None: ...

class TangentTask:
    def __init__(
        self,
        *,
        samples: int,
        tangents: int,
        steps: int,
        states: Sequence[int],
        seeds: Sequence[int],
        weight_seeds: Sequence[WeightSeed],
        inputs: Sequence[int],
        input_steps: int,
        values: int,
        outputs: int,
        tangent_outputs: int,
        scale: int,
        errors: int,
        final_states: Sequence[int],
        final_tangents: Sequence[int],
        threads: int,
        memory_limit: int,
        stream: int,
    ) -> None: ...

def run_tangents(program: Program, prologue: Program | None, task: TangentTask) -> dict[str, int]: ...
def find_non_finite(program: Program, prologue: Program | None, task: TangentTask) -> tuple[int, int, int, int]: ...
