"""Every op of native programs, in the layouts and with the attributes its code tells apart. A row here adds it to all
checks of tests/test_program_ops.py; what it must compute is in tqs_fast.reference.ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from programs import Case, Packed, View, contiguous
from tqs_fast.reference.elementwise import OPCODES
from tqs_fast.reference.ops import REDUCTIONS

ARITY = {name: 1 for name in OPCODES} | {name: 2 for name in OPCODES[OPCODES.index("add") :]} | {"where": 3}
ARITY["constant"] = 0


def elementwise(
    name: str,
    inputs: Sequence[View],
    code: Sequence[tuple[object, ...]],
    outputs: Sequence[int] | None = None,
    views: Sequence[View] | None = None,
    roundings: float = 32.0,
) -> Case:
    """`code`: (opcode, registers ...) or ("constant", value); each writes the next register. Default: the last is the
    output."""
    flat: list[int] = []
    values: list[float] = []
    for number, (opcode, *arguments) in enumerate(code):
        is_constant = opcode == "constant"
        registers = [] if is_constant else [int(r) for r in arguments]
        assert len(registers) == ARITY[str(opcode)]
        flat += [OPCODES.index(str(opcode)), len(inputs) + number, *registers, *[0] * (3 - len(registers))]
        values.append(float(arguments[0]) if is_constant else 0.0)
    chosen = [len(inputs) + len(code) - 1] if outputs is None else list(outputs)
    sizes = tuple(max(x.sizes[axis] for x in inputs) for axis in range(len(inputs[0].sizes)))
    return Case(
        name,
        "elementwise",
        tuple(inputs),
        tuple(View(sizes) for _ in chosen) if views is None else tuple(views),
        {"code": tuple(flat), "output_registers": tuple(chosen)},
        {"values": tuple(values)},
        roundings,
    )


# ---------------------------------------------------------------- every opcode

DRAW = {
    **dict.fromkeys(("square_root", "reciprocal_square_root", "log", "log1p", "reciprocal"), ("positive",)),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), ("between",)),
    **dict.fromkeys(("exp", "expm1", "sinh", "cosh", "tanh", "sigmoid", "softplus", "gelu", "silu"), ("wide",)),
    **dict.fromkeys(("logical_not", "is_nan", "is_finite"), ("boolean",)),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor", "equal", "not_equal"), ("boolean", "boolean")),
    **dict.fromkeys(("absolute", "sign", "relu"), ("apart",)),
    **dict.fromkeys(("maximum", "minimum", "less", "less_equal", "greater", "greater_equal"), ("apart", "aside")),
    "tan": ("unit",),
    "divide": ("normal", "positive"),
    "atan2": ("positive", "positive"),
    "power": ("positive", "normal"),
    "remainder": ("between", "one"),
    "floor_divide": ("between", "one"),
    "where": ("boolean", "normal", "normal"),
}


def opcode_case(name: str) -> Case:
    draws = DRAW.get(name, ("normal",) * ARITY[name])
    inputs = [View((1, 3, 37), draw=draw) for draw in draws]
    if name == "where":  # a condition that is moved by a difference is another condition
        inputs[0] = replace(inputs[0], source="series")
    return elementwise(name, inputs, [(name, *range(len(inputs)))])


OPCODE_CASES = tuple(opcode_case(name) for name in OPCODES if name != "constant")

# ---------------------------------------------------------------- layouts of elementwise chains

X, Y = View((1, 4, 50)), View((1, 4, 50))
FMA = (("multiply", 0, 1), ("add", 3, 2))
# hidden' = n + z (hidden - n), n = tanh(x_n + r h_n): gate slices of two products, rows of 3 * 72
GATES = tuple(View((1, 2, 72), (0, 216, 1), 72 * part) for part in (0, 1, 2, 0, 1, 2))
GRU = (
    ("add", 0, 3),
    ("sigmoid", 7),
    ("add", 1, 4),
    ("sigmoid", 9),
    ("multiply", 8, 5),
    ("add", 2, 11),
    ("tanh", 12),
    ("subtract", 6, 13),
    ("multiply", 10, 14),
    ("add", 13, 15),
)
MANY = tuple(View((1, 130)) for _ in range(16))

LAYOUT_CASES = (
    elementwise("one element", [View((1, 1)), View((1, 1))], [("multiply", 0, 1)]),
    elementwise("no axes", [View(()), View(())], [("multiply", 0, 1)]),
    elementwise("shorter than a vector", [View((1, 3)), View((1, 3))], [("multiply", 0, 1)]),
    elementwise(  # arguments up to 16 are off by as many roundings
        "longer than a block", [View((1, 3001)), View((1, 3001))], [("multiply", 0, 1), ("sin", 2)], roundings=128
    ),
    elementwise("long rows with a vector", [View((3, 1500)), View((3, 1500), (0, 1))], [("multiply", 0, 1)]),
    elementwise("row vector", [X, View((1, 4, 50), (0, 0, 1), source="constant")], [("multiply", 0, 1)]),
    elementwise("row scalar", [replace(X, draw="positive"), View((1, 4, 50), (0, 1, 0))], [("divide", 1, 0)]),
    elementwise("row vector, long rows", [View((4, 100)), View((4, 100), (0, 1))], [("multiply", 0, 1)]),
    elementwise("row scalar, long rows", [View((4, 100)), View((4, 100), (1, 0))], [("multiply", 0, 1)]),
    elementwise("size 1 broadcasts", [View((2, 5, 3)), View((2, 1, 3)), View((1, 1, 1))], FMA),
    elementwise("outer product", [View((1, 40, 70), (0, 1, 0)), View((1, 40, 70), (0, 0, 1))], [("multiply", 0, 1)]),
    elementwise("transposed", [View((1, 40, 70), (0, 1, 40)), View((1, 40, 70))], [("multiply", 0, 1)]),
    elementwise("every second", [View((1, 70), (140, 2), 1), View((1, 70))], [("multiply", 0, 1)]),
    elementwise("short slices", [View((1, 6, 5), (0, 11, 1), 3), View((1, 6, 5))], [("multiply", 0, 1)]),
    elementwise("middle axis broadcasts", [View((2, 3, 7)), View((2, 3, 7), (7, 0, 1))], [("multiply", 0, 1)]),
    elementwise("gate slices", [*GATES, View((1, 2, 72))], GRU),
    elementwise("short gate slices", [replace(x, sizes=(1, 2, 9)) for x in (*GATES, View((1, 2, 9)))], GRU),
    elementwise("scalar constant", [X, View((1, 4, 50), (0, 0, 0), source="constant"), Y], FMA),
    elementwise(
        "constants only vary", [View((1, 9), source="series"), View((1, 9), source="constant")], [("multiply", 0, 1)]
    ),
    elementwise(
        "strided output",
        [X, Y],
        [("multiply", 0, 1)],
        views=[View((1, 4, 50), (0, 1, 4))],
    ),
    elementwise("output rows apart", [X, Y], [("multiply", 0, 1)], views=[View((1, 4, 50), (0, 60, 1), 7)]),
    elementwise("mixed precisions", [X, replace(Y, precision="float32"), replace(Y, precision="float64")], FMA),
    elementwise(
        "narrowing",
        [replace(X, precision="float64")],
        [("sin", 0), ("cos", 0)],
        [1, 2],
        [View((1, 4, 50), precision="float32"), View((1, 4, 50), precision="float64")],
    ),
)

# ---------------------------------------------------------------- what the derivative of a chain has to get right

CHAIN_CASES = (
    elementwise(
        "four outputs",
        [X, Y],
        [("multiply", 0, 1), ("exp", 2), ("tanh", 3), ("add", 4, 0)],
        [2, 3, 4, 5],
        roundings=400,
    ),
    elementwise("an input is the output", [X, Y], [("multiply", 0, 1)], [1, 2]),
    elementwise("one register, two outputs", [X], [("exp", 0)], [1, 1]),
    elementwise("constant output", [X], [("constant", 1.5), ("multiply", 0, 1)], [1, 2]),
    elementwise("sum of 16", MANY, [("add", 0, 1), *(("add", 14 + i, i) for i in range(2, 16))], roundings=100),
    elementwise(
        "weighted sum of 16",
        MANY,
        [
            *(("multiply", 2 * i, 2 * i + 1) for i in range(8)),
            ("add", 16, 17),
            *(("add", 22 + i, 16 + i) for i in range(2, 8)),
        ],
        roundings=100,
    ),
    elementwise(
        "units and products",
        MANY,
        [
            *(("multiply", i, i + 1) for i in range(0, 6, 2)),
            ("add", 16, 17),
            ("add", 19, 18),
            *(("add", 14 + i, i) for i in range(6, 16)),
        ],
        roundings=100,
    ),
    elementwise("squares", [X], [("multiply", 0, 0), ("multiply", 1, 1)]),
    elementwise("by constants", [X, Y], [("constant", 0.1), ("multiply", 0, 2), ("add", 1, 3)]),
    elementwise(
        "Euler step",
        [X, Y],
        [
            ("constant", 10.0),
            ("constant", 0.01),
            ("subtract", 1, 0),
            ("multiply", 2, 4),
            ("multiply", 3, 5),
            ("add", 0, 6),
        ],
    ),
    *(
        elementwise(
            f"power {exponent}", [View((1, 50), draw=draw)], [("constant", exponent), ("power", 0, 1)], roundings=64
        )
        for exponent, draw in (
            (2, "normal"),
            (3, "normal"),
            (0.5, "positive"),
            (-0.5, "positive"),
            (-1, "positive"),
            (-2, "positive"),
            (1, "normal"),
            (0, "normal"),
            (4, "normal"),
            (1.7, "positive"),
        )
    ),
    elementwise("base constant", [X], [("constant", 1.3), ("power", 1, 0)]),
    elementwise(
        "the branch not taken",  # log and square root of negative numbers, whose derivatives are NaN
        [View((1, 60), draw="apart")],
        [
            ("constant", 0.03),
            ("greater", 0, 1),
            ("log", 0),
            ("square_root", 0),
            ("multiply", 3, 4),
            ("where", 2, 5, 0),
        ],
    ),
    elementwise(
        "clamp",
        [View((1, 60), draw="apart")],
        [("constant", -1.03), ("constant", 1.03), ("maximum", 0, 1), ("minimum", 3, 2), ("multiply", 4, 4)],
    ),
    elementwise("unused code", [X, Y], [("exp", 0), ("log", 2), ("multiply", 0, 1)], [4]),
)

# ---------------------------------------------------------------- rows


def reduce(name: str, x: View, kind: str, axes: Sequence[int], roundings: float = 64.0) -> Case:
    out = View(tuple(1 if axis in axes else n for axis, n in enumerate(x.sizes)))
    ints = {"kind": (tuple(REDUCTIONS).index(kind),), "axes": tuple(axes)}
    return Case(f"{kind} {name}", "reduce", (x,), (out,), ints, {}, roundings)


REDUCE_CASES = (
    *(reduce("of rows", View((2, 3, 70)), kind, [2]) for kind in ("sum", "mean")),
    *(reduce("of columns", View((1, 150, 70)), kind, [1]) for kind in ("sum", "mean")),
    *(reduce("of everything", View((2, 3, 7)), kind, [0, 1, 2]) for kind in ("sum", "mean")),
    *(reduce("of long rows", View((1, 4000)), kind, [1]) for kind in ("sum", "mean")),
    reduce("over outer and inner", View((5, 3, 40)), "sum", [0, 2]),
    reduce("over a middle axis", View((2, 5, 3)), "sum", [1]),
    reduce("of strided rows", View((2, 30), (60, 2), 1), "sum", [1]),
    reduce("of a transposed tensor", View((1, 20, 30), (0, 1, 20)), "sum", [2]),
    reduce("of a broadcast", View((4, 30), (0, 1)), "sum", [0]),
    reduce("over nothing", View((2, 30)), "sum", []),
    *(
        reduce(f"of {name}", replace(x, draw="apart"), kind, axes)
        for kind in ("maximum", "minimum", "argmax", "argmin")
        for name, x, axes in (
            ("rows", View((2, 3, 70)), [2]),
            ("columns", View((1, 5, 70)), [1]),
            ("strided rows", View((2, 30), (60, 2), 1), [1]),
        )
    ),
    *(reduce("over two axes", View((3, 4, 5), draw="apart"), kind, [0, 2]) for kind in ("maximum", "minimum")),
    reduce("of rows", View((2, 3, 6)), "product", [2]),
    reduce("with zeros", View((5, 4), draw="integer"), "product", [1]),
    reduce("over two axes", View((2, 4, 3)), "product", [0, 2]),
    *(reduce("of rows", View((6, 3), draw="boolean"), kind, [1]) for kind in ("any", "all")),
    replace(
        reduce("to another precision", View((2, 70), precision="float64"), "mean", [1]),
        outputs=(View((2, 1), precision="float32"),),
    ),
    replace(
        reduce("to another precision", View((70, 20), draw="apart", precision="float32"), "maximum", [0]),
        outputs=(View((1, 20), precision="float64"),),
    ),
)


def softmax(name: str, x: View, logarithm: bool, out: View | None = None) -> Case:
    kind = "log softmax" if logarithm else "softmax"
    return Case(f"{kind} {name}", "softmax", (x,), (out or View(x.sizes),), {"logarithm": (int(logarithm),)}, {}, 256)


SOFTMAX_CASES = tuple(
    softmax(name, x, logarithm, out)
    for logarithm in (False, True)
    for name, x, out in (
        ("of one", View((2, 1)), None),
        ("of three", View((1, 4, 3)), None),
        ("of a row", View((2, 3, 70), draw="wide"), None),
        ("of a long row", View((1, 600)), None),
        ("of strided rows", View((3, 40), (1, 3)), None),
        ("into strided rows", View((3, 40)), View((3, 40), (1, 3))),
        ("between precisions", View((3, 40), precision="float32"), View((3, 40), precision="float64")),
    )
)


def normalize(name: str, x: View, axes: int, center: bool, out: View | None = None, epsilon: float = 1e-5) -> Case:
    kind = "normalize" if center else "root mean square"
    ints = {"axes": (axes,), "center": (int(center),)}
    return Case(f"{kind} {name}", "normalize", (x,), (out or View(x.sizes),), ints, {"epsilon": (epsilon,)}, 64)


NORMALIZE_CASES = tuple(
    normalize(name, x, axes, center, out)
    for center in (True, False)
    for name, x, axes, out in (
        ("a row", View((2, 3, 70)), 1, None),
        ("short rows", View((2, 5, 3), draw="apart"), 1, None),
        ("two axes", View((2, 3, 30)), 2, None),
        ("everything", View((2, 3, 30)), 3, None),
        ("long rows", View((1, 2000)), 1, None),
        ("two strided axes", View((2, 3, 30), (120, 1, 4), 1), 2, None),
        ("strided rows", View((3, 40), (1, 3)), 1, None),
        ("into strided rows", View((3, 40)), 1, View((3, 40), (1, 3))),
        ("to another precision", View((3, 40), precision="float64"), 1, View((3, 40), precision="float32")),
    )
)


def scan(name: str, x: View, axis: int, product: bool, out: View | None = None) -> Case:
    kind = "running product" if product else "running sum"
    return Case(
        f"{kind} {name}", "scan", (x,), (out or View(x.sizes),), {"axis": (axis,), "product": (int(product),)}, {}, 64
    )


SCAN_CASES = tuple(
    scan(name, replace(x, draw="positive") if product else x, axis, product, out)
    for product in (False, True)
    for name, x, axis, out in (
        ("along rows", View((2, 3, 20)), 2, None),
        ("along columns", View((1, 20, 70)), 1, None),
        ("in the middle", View((2, 6, 3, 5)), 1, None),
        ("along a strided axis", View((2, 20), (1, 2)), 1, None),
        ("more columns than fit", View((3, 700)), 0, None),
        ("between inner strides", View((2, 6, 3, 5), (90, 15, 1, 3)), 1, None),
        ("to another precision", View((2, 20), precision="float32"), 1, View((2, 20), precision="float64")),
    )
)
SCAN_CASES += (scan("with zeros", View((4, 9), draw="integer"), 1, True),)


def running_extreme(name: str, x: View, axis: int, largest: bool, out: View | None = None) -> Case:
    kind = "running maximum" if largest else "running minimum"
    ints = {"axis": (axis,), "largest": (int(largest),)}
    out = out or View(x.sizes)
    return Case(f"{kind} {name}", "running_extreme", (replace(x, draw="apart"),), (out, out), ints)


RUNNING_EXTREME_CASES = tuple(
    running_extreme(name, x, axis, largest, out)
    for largest in (True, False)
    for name, x, axis, out in (
        ("along rows", View((2, 3, 20)), 2, None),
        ("along columns", View((1, 20, 70)), 1, None),
        ("in the middle", View((2, 6, 3, 5)), 1, None),
        ("along a strided axis", View((2, 20), (1, 2)), 1, None),
        ("more columns than fit", View((3, 700)), 0, None),
        ("between inner strides", View((2, 6, 3, 5), (90, 15, 1, 3)), 1, None),
        ("into strided columns", View((6, 20)), 0, View((6, 20), (1, 6))),
        ("to another precision", View((2, 20), precision="float32"), 1, View((2, 20), precision="float64")),
    )
)


def top_k(name: str, x: View, count: int, largest: bool) -> Case:
    out = View((*x.sizes[:-1], count))
    ints = {"count": (count,), "largest": (int(largest),)}
    return Case(f"{'largest' if largest else 'smallest'} {name}", "top_k", (x,), (out, out), ints)


TOP_K_CASES = tuple(
    top_k(name, x, count, largest)
    for largest in (True, False)
    for name, x, count in (
        ("3 of 20", View((2, 3, 20), draw="apart"), 3),
        ("all of 9", View((2, 9), draw="apart"), 9),
        ("1 of 5, strided", View((2, 5), (1, 2), draw="apart"), 1),
    )
)

# ---------------------------------------------------------------- movement


def copy(name: str, x: View, out: View | None = None) -> Case:
    return Case(f"copy {name}", "copy", (x,), (out or View(x.sizes),), roundings=1)


def remap(name: str, x: View, sizes: tuple[int, ...], runs: Sequence[tuple[int, int, int, int]]) -> Case:
    flat = tuple(number for run in runs for number in run)
    return Case(f"remap {name}", "remap", (x,), (View(sizes),), {"runs": flat}, {"fill": (0.5,)}, 1)


def gather(name: str, x: View, index: View, axis: int) -> Case:
    return Case(
        f"gather {name}", "gather", (x, replace(index, source="series")), (View(index.sizes),), {"axis": (axis,)}, {}, 1
    )


MOVEMENT_CASES = (
    copy("a run", View((2, 3, 50))),
    copy("one element", View((1, 1))),
    copy("no axes", View(())),
    copy("a slice", View((3, 20), (50, 1), 7)),
    copy("into a slice", View((3, 20)), View((3, 20), (50, 1), 7)),
    copy("a transposed tensor", View((1, 40, 50), (0, 1, 40))),
    copy("heads", View((3, 20, 17), (17, 51, 1))),
    copy("swapped outer axes of a transposed tensor", View((3, 20, 17), (340, 1, 20))),
    copy("into a transposed tensor", View((40, 50)), View((40, 50), (1, 40))),
    copy("a broadcast", View((4, 30), (0, 1))),
    copy("a column broadcast", View((4, 30), (1, 0))),
    copy("every second to every third", View((30,), (2,)), View((30,), (3,))),
    copy("to float64", View((4, 30), precision="float32"), View((4, 30), precision="float64")),
    copy("to float32", View((4, 30), (1, 4), precision="float64"), View((4, 30), precision="float32")),
    copy("from the series", View((4, 30), source="series")),
    remap("in reverse", View((50,)), (1, 50), [(0, 49, 50, -1)]),
    remap("padding", View((10,)), (14,), [(0, -1, 2, 0), (2, 0, 10, 1), (12, -1, 2, 0)]),
    remap("windows", View((12,)), (3, 6), [(0, 0, 6, 1), (6, 3, 6, 1), (12, 6, 6, 1)]),
    remap("repeats", View((3,), (4,), 2), (6,), [(0, 0, 4, 0), (4, 4, 2, 4)]),
    gather("along rows", View((3, 7)), View((3, 4), draw="index7"), 1),
    gather("along columns", View((5, 6)), View((3, 6), draw="index5"), 0),
    gather(
        "of an embedding", View((4, 5, 9), (0, 9, 1), source="constant"), View((4, 1, 9), (1, 0, 0), draw="index5"), 1
    ),
    gather("of a strided tensor", View((2, 7, 3), (21, 1, 7)), View((2, 4, 3), draw="index7"), 1),
    gather(
        "between precisions", View((3, 7), precision="float64"), View((3, 4), draw="index7", precision="float32"), 1
    ),
)

# ---------------------------------------------------------------- products


def linear(name: str, x: View, columns: int, bias: bool = True, roundings: float = 200.0) -> Case:
    weight = View((columns, x.sizes[-1]), source="constant")
    given = View((columns,), source="constant" if bias else "absent")
    return Case(f"linear {name}", "linear", (x, weight, given), (View((*x.sizes[:-1], columns)),), {}, {}, roundings)


def packed_linear(
    name: str,
    x: View,
    columns: int,
    bits: int = 4,
    group_size: int = 32,
    *,
    symmetric: bool = True,
    bias: str = "constant",
    roundings: float = 200.0,
) -> Case:
    """A packed weight is multiplied in float32, whatever the precision of the test."""
    x = replace(x, precision="float32")
    given = View((columns,), source=bias, precision="float32")
    out = View((*x.sizes[:-1], columns), precision="float32")
    packed = Packed(columns, x.sizes[-1], bits, group_size, symmetric)
    return Case(f"packed linear {name}", "packed_linear", (x, given), (out,), {"weight": (0,)}, {}, roundings, packed)


def matmul(name: str, a: View, b: View, roundings: float = 200.0) -> Case:
    sizes = tuple(max(m, n) for m, n in zip(a.sizes[:-2], b.sizes[:-2], strict=True))
    return Case(f"matmul {name}", "matmul", (a, b), (View((*sizes, a.sizes[-2], b.sizes[-1])),), {}, {}, roundings)


def attention(name: str, q: View, k: View, v: View, mask: View | None = None, *, offset: int | None = None) -> Case:
    """Causal with that offset, or not. The result lies with the heads between, as capture writes it."""
    sizes = (*q.sizes[:-1], v.sizes[-1])
    heads, rows, width = sizes[-3:]
    out = View(sizes, (heads * rows * width, width, heads * width, 1))
    ints = {"causal": (int(offset is not None),), "causal_offset": (offset or 0,)}
    given = View((1,), source="absent") if mask is None else mask
    return Case(f"attention {name}", "attention", (q, k, v, given), (out,), ints, {"scale": (0.3,)}, 100)


def convolution(
    name: str,
    sizes: tuple[int, ...],
    filters: int,
    taps: tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    strides: tuple[int, ...] | None = None,
    bias: bool = True,
) -> Case:
    """Out is stored channels-last."""
    axes = len(taps)
    given = {"stride": stride, "padding": padding, "dilation": dilation}
    ints = {key: (value,) * axes if isinstance(value, int) else value for key, value in given.items()}
    along = zip(sizes[2:], taps, ints["stride"], ints["padding"], ints["dilation"], strict=True)
    length = [(n + 2 * p - d * (t - 1) - 1) // s + 1 for n, t, s, p, d in along]
    batch, *steps = (filters * s for s in contiguous((1, *length)))
    out = View((sizes[0], filters, *length), (batch, 1, *steps))
    weight = View((filters, sizes[1] // groups, *taps), source="constant")
    inputs = (View(sizes, strides), weight, View((filters,), source="constant" if bias else "absent"))
    return Case(f"convolution {name}", "convolution", inputs, (out,), {**ints, "groups": (groups,)}, {}, 200)


PRODUCT_CASES = (
    convolution("of a series", (1, 5, 20), 9, (3,)),
    convolution("padded and dilated", (1, 5, 20), 9, (3,), padding=2, dilation=2),
    convolution("with stride", (1, 4, 21), 6, (4,), stride=3, padding=1, bias=False),
    convolution("channels last", (1, 5, 20), 9, (3,), strides=(0, 1, 5)),
    convolution("channels last, with stride", (1, 6, 21), 9, (4,), stride=3, strides=(0, 1, 6), bias=False),
    convolution("of a slice of channels", (1, 4, 9), 5, (3,), strides=(0, 1, 6)),
    convolution("of patches", (5, 1, 24), 16, (8,), stride=8),
    convolution("to one position", (1, 4, 3), 40, (3,)),
    convolution("padded beyond its taps", (1, 3, 5), 4, (2,), padding=4),
    convolution("dilated, stride a multiple", (1, 5, 30), 7, (3,), dilation=2, stride=4, padding=1),
    convolution("dilated, stride with a common factor", (1, 5, 30), 7, (3,), dilation=4, stride=6, padding=3),
    convolution("dilated, fewer outputs than phases", (1, 5, 14), 7, (3,), dilation=5, stride=2),
    convolution("in groups", (1, 6, 20), 4, (3,), groups=2),
    convolution("in groups, one tap", (1, 6, 20), 8, (1,), groups=2, strides=(0, 1, 6)),
    convolution("depthwise", (1, 7, 20), 7, (4,), groups=7, padding=3),
    convolution("depthwise, several each", (1, 3, 20), 6, (3,), groups=3, strides=(0, 1, 3)),
    convolution("depthwise, channels last", (1, 37, 12), 37, (4,), groups=37, strides=(0, 1, 37), bias=False),
    convolution("depthwise, everything", (1, 5, 12), 15, (3,), groups=5, stride=2, dilation=2, padding=5),
    convolution("depthwise, of a batch", (3, 4, 6), 4, (2,), groups=4, strides=(4, 1, 12)),
    convolution("of an image", (1, 3, 6, 7), 5, (3, 2), padding=1),
    convolution(
        "of images, everything",
        (2, 4, 9, 11),
        6,
        (2, 3),
        stride=(2, 1),
        padding=(0, 2),
        dilation=(3, 2),
        groups=2,
        strides=(396, 1, 44, 4),
    ),
    convolution("of an image, one tap", (1, 4, 5, 6), 6, (1, 1), stride=2, strides=(0, 1, 24, 4)),
    convolution("of an image, a channel a group", (1, 4, 5, 6), 8, (2, 2), groups=4),
    linear("of a row", View((1, 33)), 17),
    linear("of a vector", View((24,)), 35),
    linear("of rows", View((1, 5, 40)), 35),
    linear("without bias", View((2, 20)), 7, bias=False),
    linear("of strided rows", View((3, 20), (1, 3)), 7),
    linear("of windows", View((1, 6, 8), (0, 2, 1)), 9),
    linear("of the series", View((5, 20), source="series"), 19),
    linear("of a broadcast", View((2, 3, 8), (0, 5, 1)), 13),
    linear("of every second", View((2, 3, 8), (16, 0, 2), 1), 13),
    linear("of permuted axes", View((2, 2, 2, 2, 2, 2, 8), (8, 16, 32, 64, 128, 256, 1)), 5),
    *(
        packed_linear(
            f"of {bits} bits, groups of {group_size}, {'symmetric' if symmetric else 'with zero points'}",
            View((1, 3, 75)),
            37,
            bits,
            group_size,
            symmetric=symmetric,
        )
        for bits in (2, 3, 4, 8)
        for group_size, symmetric in ((0, True), (0, False), (32, True), (32, False))
    ),
    packed_linear("of a row", View((1, 33)), 17, 8),
    packed_linear("of one number", View((4, 1)), 5, bias="absent"),
    packed_linear("without bias", View((2, 20)), 7, bias="absent"),
    packed_linear("of strided rows", View((3, 20), (1, 3)), 7, 3),
    packed_linear("of rows apart", View((2, 3, 20), (90, 25, 1), 4), 70),
    packed_linear("of windows", View((1, 6, 8), (0, 2, 1)), 9),
    packed_linear("of the series", View((5, 20), source="series"), 19),
    packed_linear("of a broadcast", View((2, 3, 8), (0, 5, 1)), 13),
    packed_linear("of the same rows", View((2, 3, 8), (0, 0, 1)), 13, 8),
    packed_linear("of every second", View((2, 3, 8), (16, 0, 2), 1), 13),
    packed_linear("of permuted axes", View((2, 2, 2, 2, 2, 2, 8), (8, 16, 32, 64, 128, 256, 1)), 5),
    packed_linear("of more rows than are rewritten at once", View((150, 33)), 5, 8),
    packed_linear("of long rows", View((70, 1100)), 3, 8, 128, roundings=400),
    matmul("of two", View((1, 5, 20)), View((1, 20, 9))),
    matmul("of transposed tensors", View((9, 8), (1, 9)), View((8, 21), (1, 8))),
    matmul("with a transposed tensor", View((2, 5, 20)), View((2, 20, 9), (180, 1, 20))),
    matmul("of heads", View((1, 3, 5, 8), (0, 8, 24, 1)), View((1, 3, 8, 5), (0, 8, 1, 24))),
    matmul("of a row", View((2, 1, 8)), View((2, 8, 21))),
    matmul("of a row, transposed", View((2, 1, 8)), View((2, 8, 21), (168, 1, 8))),
    matmul("to a column", View((2, 17, 8)), View((2, 8, 1))),
    matmul("to a column, transposed", View((2, 17, 8), (136, 1, 17)), View((2, 8, 1))),
    matmul("to one element", View((2, 1, 8)), View((2, 8, 1))),
    matmul("of vectors, outer", View((2, 6, 1)), View((2, 1, 33))),
    matmul("with a broadcast", View((2, 3, 4, 6)), View((2, 3, 6, 5), (30, 0, 5, 1))),
    matmul("of a broadcast", View((2, 3, 4, 8), (32, 0, 8, 1)), View((2, 3, 8, 5))),
    matmul("with a constant", View((3, 8)), View((8, 21), source="constant")),
    matmul("of a constant", View((3, 8), source="constant"), View((8, 21))),
    matmul("with the series", View((5, 8)), View((8, 21), source="series")),
    matmul("of the series", View((5, 8), source="series"), View((8, 21))),
    attention("of all", View((1, 2, 21, 8)), View((1, 2, 30, 8)), View((1, 2, 30, 9))),
    attention("of one query", View((1, 2, 1, 8)), View((1, 2, 70, 8)), View((1, 2, 70, 9)), offset=66),
    attention("causal", View((1, 2, 21, 8)), View((1, 2, 21, 8)), View((1, 2, 21, 20)), offset=0),
    attention("that sees nothing at first", View((1, 1, 9, 5)), View((1, 1, 9, 5)), View((1, 1, 9, 4)), offset=-3),
    attention(
        "with a mask",
        View((1, 2, 18, 8)),
        View((1, 2, 20, 8)),
        View((1, 2, 20, 8)),
        View((1, 2, 18, 20), (0, 0, 20, 1), source="constant", draw="mask"),
    ),
    attention(
        "with a mask of states",
        View((1, 2, 18, 8)),
        View((1, 2, 20, 8)),
        View((1, 2, 20, 8)),
        View((20,), (1,)),
    ),
    attention(
        "of shared heads in between",
        View((1, 4, 19, 8), (0, 8, 32, 1)),
        View((1, 4, 20, 8), (0, 0, 8, 1)),
        View((1, 4, 20, 8), (0, 0, 8, 1)),
        offset=1,
    ),
    attention("of transposed keys", View((1, 2, 3, 8)), View((1, 2, 30, 8), (0, 240, 1, 30)), View((1, 2, 30, 8))),
)

CASES = (
    *OPCODE_CASES,
    *LAYOUT_CASES,
    *CHAIN_CASES,
    *REDUCE_CASES,
    *SOFTMAX_CASES,
    *NORMALIZE_CASES,
    *SCAN_CASES,
    *RUNNING_EXTREME_CASES,
    *TOP_K_CASES,
    *MOVEMENT_CASES,
    *PRODUCT_CASES,
)
