"""One small graph per operator: x [batch, ...] -> y."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from onnx_models import model, weight

MS = "com.microsoft"


@dataclass
class Case:
    """
    Attributes:
        covers: (domain, operator) pairs.
        x: sizes after the batch; its values lie in (0, 1) where `positive`, else they are normal.
    """

    name: str
    nodes: Sequence[Any]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    x: tuple[int, ...] = (6,)
    opset: int = 17
    positive: bool = False

    @property
    def covers(self) -> set[tuple[str, str]]:
        return {(node.domain, node.op_type) for node in self.nodes}

    def build(self) -> Any:
        """The model; ONNX Runtime says what rank y has."""
        session = onnxruntime.InferenceSession(
            self._model(None).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (y,) = session.run(None, {"x": np.full((2, *self.x), 0.5, np.float32)})
        return self._model([None] * y.ndim)

    def _model(self, shape: Any) -> Any:
        return model(self.nodes, {"x": ["batch", *self.x]}, {"y": shape}, self.values, opset=self.opset)


def node(op: str, inputs: str = "x", outputs: str = "y", *, domain: str = "", **attributes: Any) -> Any:
    """Names are separated by blanks; "-" is an input that is left out."""
    given = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, given, outputs.split(), domain=domain, name=f"the {op} of {inputs}", **attributes)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def one(
    op: str, inputs: str = "x", *, x: tuple[int, ...] = (6,), opset: int = 17, domain: str = "", **rest: Any
) -> Case:
    """A case of one node; arrays among `rest` are initializers, everything else attributes."""
    values = {k: v for k, v in rest.items() if isinstance(v, (np.ndarray, np.generic))}
    positive = rest.pop("positive", False)
    attributes = {k: v for k, v in rest.items() if k not in values}
    name = "-".join([op, *(f"{k}{v}" for k, v in attributes.items()), *([f"opset{opset}"] if opset != 17 else [])])
    shaped = {k: np.asarray(v) for k, v in values.items()}
    return Case(name, [node(op, inputs, domain=domain, **attributes)], shaped, x, opset, positive)


def truth(op: str, inputs: str, **values: np.ndarray) -> Case:
    """A case whose result is boolean."""
    nodes = [node(op, inputs, "b"), node("Cast", "b", to=TensorProto.FLOAT)]
    return Case(op, nodes, values)


def _elementwise() -> list[Case]:
    plain = "Abs Atan Ceil Cos Cosh Erf Exp Floor HardSwish Identity Mish Neg Relu Round Sigmoid Sign Sin Sinh Softplus"
    cases = [one(op, opset=18 if op == "Mish" else 17) for op in (*plain.split(), "Softsign", "Tanh")]
    cases += [one(op, positive=True) for op in ("Acos", "Asin", "Log", "Reciprocal", "Sqrt", "Tan")]
    w, positive = weight(6), np.abs(weight(6)) + np.float32(0.5)
    cases += [one(op, "x w", w=w) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")]
    cases += [one("Div", "x w", w=positive), one("Mod", "x w", w=positive, fmod=1), one("Sub", "w x", w=w)]
    cases += [truth(op, "x w", w=w) for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")]
    cases += [truth("IsNaN", "x"), truth("IsInf", "x")]
    less = [node("Less", "x w", "a"), node("Greater", "x v", "b")]
    for op in ("And", "Or", "Xor"):
        end = [node(op, "a b", "c"), node("Cast", "c", to=TensorProto.FLOAT)]
        cases.append(Case(op, [*less, *end], {"w": w, "v": weight(6, seed=4)}))
    cases.append(Case("Not", [less[0], node("Not", "a", "c"), node("Where", "c x w")], {"w": w}))
    cases += [one("Pow", "x w", w=np.float32(p), positive=True) for p in (2, 3, 0.5, -1, 1.7)]
    cases += [
        one("Pow", "x w", w=positive, positive=True),
        one("Clip", "x low high", low=np.float32(-0.2), high=np.float32(0.3)),
    ]
    cases += [
        one("Clip", "x - high", high=np.float32(0.3)),
        one("LeakyRelu", alpha=0.2),
        one("PRelu", "x w", w=positive),
    ]
    cases += [one("Elu", alpha=0.7), one("Selu"), one("HardSigmoid", alpha=0.3), one("Dropout")]
    cases += [one("Gelu", opset=20), one("Gelu", opset=20, approximate="tanh"), one("Gelu", domain=MS)]
    cases += [
        one("BiasGelu", "x w", w=w, domain=MS),
        one("FastGelu", "x w", w=w, domain=MS),
        one("QuickGelu", domain=MS),
    ]
    trip = [
        node("Cast", "x", "d", to=TensorProto.DOUBLE),
        node("Mul", "d d", "e"),
        node("Cast", "e", to=TensorProto.FLOAT),
    ]
    return [*cases, Case("Cast", trip), Case("CastLike", [node("CastLike", "x w")], {"w": w})]


def _movement() -> list[Case]:
    grid = (4, 6)
    cases = [one("Reshape", "x shape", shape=ints(0, 3, -1), x=grid), one("Flatten", x=grid, axis=2)]
    cases += [one("Transpose", x=grid, perm=[0, 2, 1]), one("Unsqueeze", "x axes", axes=ints(1, -1), x=grid)]
    cases += [one("Squeeze", "x axes", axes=ints(1), x=(1, 6)), one("Squeeze", x=(1, 6), axes=[1], opset=12)]
    cases += [one("Expand", "x shape", shape=ints(1, 4, 6), x=(1, 6)), one("Tile", "x n", n=ints(1, 2, 1), x=grid)]
    cases += [one("Concat", "x x", x=grid, axis=-1), one("Slice", "x a b c", a=ints(1), b=ints(-1), c=ints(2), x=grid)]
    cases += [one("Slice", "x a b c d", a=ints(-1), b=ints(-99), c=ints(1), d=ints(-2), x=grid)]
    cases += [one("Slice", "x a b c d", a=ints(0, 1), b=ints(99, 6), c=ints(1, 2), d=ints(2, 3), x=grid)]
    halves = [node("Split", "x", "a b", axis=2), node("Sub", "a b")]
    parts = [node("Split", "x n", "a b", axis=2), node("Concat", "b a", axis=2)]
    uneven = [node("Split", "x", "a b c", axis=1, num_outputs=3), node("Concat", "c a b", axis=1)]
    cases += [Case("Split", halves, x=grid), Case("Split-sizes", parts, {"n": ints(2, 4)}, grid)]
    cases += [Case("Split-uneven", uneven, x=(5, 2), opset=18)]
    for mode in ("constant", "reflect", "edge"):
        cases.append(one("Pad", "x pads", pads=ints(0, 1, 2, 0, 0, 3), x=grid, mode=mode))
    cases += [one("Pad", "x pads value", pads=ints(0, 1, 0, 0, 0, 1), value=np.float32(2.5), x=grid)]
    cases += [one("Trilu", x=(5, 5), upper=upper) for upper in (0, 1)]
    cases += [
        one("Gather", "x i", i=ints(3, -1, 0), x=grid, axis=2),
        one("Gather", "x i", i=np.array(-2), x=grid, axis=1),
    ]
    largest = [node("ArgMax", "x", "i", axis=1), node("GatherElements", "x i", axis=1)]
    cases.append(Case("GatherElements", largest, x=grid))
    cases += [one("CumSum", "x axis", axis=np.array(1), x=grid)]
    picked = [node("ArgMax", "x", "i", axis=-1, keepdims=0), node("Gather", "table i")]
    cases.append(Case("Gather-computed", picked, {"table": weight(6, 5)}))
    best = [node("TopK", "x k", "v i", axis=-1), node("Cast", "i", "f", to=TensorProto.FLOAT), node("Add", "v f")]
    cases += [
        Case("TopK", best, {"k": ints(3)}),
        Case("ArgMin", [node("ArgMin", "x", "i", axis=-1), node("Cast", "i", to=1)]),
    ]
    sized = [node("Shape", "x", "s"), node("Size", "x", "n"), node("ConstantOfShape", "s", "z"), node("Add", "x z")]
    cases.append(Case("Shape", sized))
    # what exporters write for x.reshape(len(x), -1)
    cut = [node("Shape", "x", "s"), node("Slice", "s zero one", "n"), node("Concat", "n rest", "form", axis=0)]
    cases.append(
        Case(
            "Shape-Reshape",
            [*cut, node("Reshape", "x form")],
            {"zero": ints(0), "one": ints(1), "rest": ints(-1)},
            grid,
        )
    )
    return cases


def _rows() -> list[Case]:
    grid = (4, 6)
    reductions = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSumSquare"
    cases = [one(op, x=grid, axes=[1], keepdims=0) for op in reductions.split()]
    cases += [
        one("ReduceSum", "x axes", axes=ints(-1, 1), x=grid),
        one("ReduceLogSum", x=grid, axes=[2], positive=True),
    ]
    cases += [one("ReduceMean", "x axes", axes=ints(1), x=grid, opset=18)]
    cases += [one("Softmax", x=grid), one("Softmax", x=grid, axis=1), one("Softmax", x=grid, axis=1, opset=12)]
    cases += [one("LogSoftmax", x=grid), one("GlobalAveragePool", x=grid), one("GlobalMaxPool", x=grid)]
    cases += [one("AveragePool", x=(2, 9), kernel_shape=[3], strides=[2])]
    cases += [one("MaxPool", x=(2, 9), kernel_shape=[3], strides=[2], pads=[1, 0])]
    scale, bias = weight(6, seed=1), weight(6, seed=2)
    norm = {"scale": scale, "bias": bias, "x": grid}
    cases += [
        one("LayerNormalization", "x scale bias", epsilon=1e-4, **norm),
        one("LayerNormalization", "x scale", scale=scale),
    ]
    written = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "c"), node("Pow", "c two", "s")]
    written += [
        node("ReduceMean", "s", "v", axes=[-1]),
        node("Add", "v tiny", "w"),
        node("Sqrt", "w", "r"),
        node("Div", "c r"),
    ]
    cases.append(
        Case(
            "LayerNormalization-written-out",
            written,
            {"two": np.array(2, np.float32), "tiny": np.array(1e-5, np.float32)},
            grid,
        )
    )
    cases += [one("SkipLayerNormalization", "x skip scale bias", domain=MS, skip=weight(1, 4, 6), **norm)]
    cases += [
        one("SkipSimplifiedLayerNormalization", "x skip scale", domain=MS, skip=weight(1, 4, 6), scale=scale, x=grid)
    ]
    channels = {"s": weight(4, seed=1), "b": weight(4, seed=2)}
    moments = {"m": weight(4, seed=3), "v": np.abs(weight(4, seed=5)) + np.float32(0.5)}
    cases += [one("BatchNormalization", "x s b m v", x=grid, **channels, **moments)]
    cases += [one("InstanceNormalization", "x s b", x=grid, **channels), one("LpNormalization", x=grid, axis=-1, p=1)]
    cases += [one("GroupNormalization", "x s b", x=grid, opset=21, num_groups=2, **channels)]
    cases += [one("RMSNormalization", "x scale", scale=scale, x=grid, opset=23)]
    return cases


def _products() -> list[Case]:
    matrix, square = weight(6, 5), weight(4, 4)
    cases = [one("MatMul", "x w", w=matrix, x=(4, 6)), one("MatMul", "w x", w=square, x=(4, 6))]
    cases += [Case("MatMul-computed", [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], x=(4, 6))]
    cases += [
        one("Gemm", "x w c", w=matrix, c=weight(5), alpha=0.5, beta=2.0),
        one("Gemm", "x w", w=weight(5, 6), transB=1),
    ]
    cases += [one("FusedMatMul", "x w", domain=MS, w=weight(5, 6), x=(4, 6), transB=1, alpha=0.25)]
    cases += [one("FusedGemm", "x w c", domain=MS, w=matrix, c=weight(5), activation="Relu")]
    cases += [one("Einsum", "x w", w=weight(6, 5, 2), x=(4, 6), equation="bij,jkl->bikl")]
    kernel, bias = weight(6, 2, 3), weight(6)
    for options in (
        {},
        {"strides": [2], "pads": [1, 1]},
        {"pads": [2, 0]},
        {"dilations": [2]},
        {"auto_pad": "SAME_UPPER"},
    ):
        cases.append(one("Conv", "x w b", w=kernel, b=bias, x=(2, 9), **options))
    for side in ("SAME_UPPER", "SAME_LOWER"):  # one more on one side than on the other
        cases.append(one("Conv", "x w", w=weight(6, 2, 4), x=(2, 9), auto_pad=side))
    cases += [
        one("Conv", "x w", w=weight(4, 1, 3), x=(4, 9), group=4),
        one("Conv", "x w", w=weight(3, 2, 3, 3), x=(2, 7, 8), pads=[1, 0, 1, 0]),
    ]
    cases += [one("FusedConv", "x w b", domain=MS, w=kernel, b=bias, x=(2, 9), activation="Relu")]
    q = [node("Split", "x", "q k v", axis=2)]
    even = [node("Split", "x", "q k v", axis=2, num_outputs=3)]
    heads = [node("MultiHeadAttention", "q k v b", domain=MS, num_heads=2)]
    cases.append(Case("MultiHeadAttention", [*q, *heads], {"b": weight(24)}, (5, 24)))
    cases += [
        one("Attention", "x w b", domain=MS, w=weight(8, 24), b=weight(24), x=(5, 8), num_heads=2, unidirectional=u)
        for u in (0, 1)
    ]
    standard = [node("Attention", "q k v", q_num_heads=2, kv_num_heads=2, is_causal=1)]
    cases.append(Case("Attention-standard", [*even, *standard], {}, (5, 24), 23))
    return cases


def _recurrent() -> list[Case]:
    cases = []
    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, n in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            values = {"w": weight(n, gates * 5, 6), "r": weight(n, gates * 5, 5), "b": weight(n, 2 * gates * 5)}
            attributes = {"hidden_size": 5, "direction": direction}
            if kind == "GRU" and direction != "forward":
                attributes["linear_before_reset"] = 1
            if kind == "RNN" and direction == "reverse":
                attributes["activations"] = ["Relu"]
            nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node(kind, "t w r b", "s", **attributes)]
            nodes.append(node("Transpose", "s", perm=[2, 0, 1, 3]))
            cases.append(Case(f"{kind}-{direction}", nodes, values, (3, 6)))
    return cases


def _control() -> list[Case]:
    def body(name: str, op: str) -> Any:
        return helper.make_graph([node(op, "x x", "z")], name, [], [helper.make_tensor_value_info("z", 1, None)])

    # the rank of x decides, as exporters write it for squeeze
    known = [node("Shape", "x", "s"), node("Gather", "s one", "n"), node("Equal", "n six", "yes")]
    choice = node("If", "yes", then_branch=body("then", "Mul"), else_branch=body("else", "Add"))
    return [Case(f"If-{n}", [*known, choice], {"one": np.array(1), "six": np.array(n)}) for n in (6, 7)]


CASES = [*_elementwise(), *_movement(), *_rows(), *_products(), *_recurrent(), *_control()]
