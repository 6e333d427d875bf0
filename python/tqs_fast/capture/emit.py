"""From a graph to a program: buffers, strides, nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from tqs_fast.capture.constants import ConstantPool
from tqs_fast.capture.fuse import Group
from tqs_fast.capture.graph import Leaf, Operation, Tensor
from tqs_fast.capture.layout import (
    Layout,
    Sizes,
    addresses,
    coalesce,
    contiguous,
    memory_order,
    reshape_strides,
    runs,
    view,
)
from tqs_fast.capture.opcodes import ARITY, MAX_RANK, OPCODE, REDUCTIONS
from tqs_fast.capture.program import Buffer, NextState, Node, Program, Value
from tqs_fast.capture.wiring import Slide, Wired
from tqs_fast.errors import CaptureError


def emit(groups: Sequence[Group], wired: Wired) -> Program:
    """Lay the groups out in memory.

    Raises:
        CaptureError: a tensor keeps more than eight axes.
    """
    return _Emitter(wired).run(groups)


class _Emitter:
    def __init__(self, wired: Wired) -> None:
        self.wired = wired
        self.buffers: list[Buffer] = []
        self.values: dict[Value, int] = {}
        self.nodes: list[Node] = []
        self.layouts: dict[int, Layout] = {}
        self.constants = ConstantPool(self.new_buffer)
        self.origin = ""
        self.states = [self._leaf(leaf, slide) for leaf, slide in zip(wired.states, wired.slides, strict=True)]
        self.inputs = [self._leaf(leaf, None) for leaf in wired.inputs]

    def run(self, groups: Sequence[Group]) -> Program:
        for group in groups:
            self.origin = group.operations[-1].origin
            if group.is_elementwise:
                self._elementwise(group)
            else:
                operation = group.operations[0]
                getattr(self, f"_{operation.kind}")(operation)
        self.origin = "step"
        states = tuple(self._next(position) for position in range(len(self.states)))
        output = self.value(self._in_arena(self.wired.output))
        return Program(
            tuple(self.buffers),
            tuple(self.values),
            tuple(self.nodes),
            tuple(self.constants.listed),
            states,
            tuple(self.inputs),
            output,
        )

    # ---------------------------------------------------------------- memory

    def new_buffer(self, kind: str, precision: str, elements: int) -> int:
        self.buffers.append(Buffer(kind, precision, elements))
        return len(self.buffers) - 1

    def _leaf(self, tensor: Tensor, slide: Slide | None) -> int:
        assert isinstance(tensor.source, Leaf)
        if slide is None:
            buffer = self.new_buffer(tensor.source.kind, tensor.precision, tensor.elements)
            self.layouts[id(tensor)] = Layout(buffer, 0, tensor.sizes, contiguous(tensor.sizes))
            return buffer
        room = [slide.pitch if axis == slide.axis else size for axis, size in enumerate(tensor.sizes)]
        buffer = self.new_buffer("state", tensor.precision, prod(room))
        self.layouts[id(tensor)] = Layout(buffer, 0, tensor.sizes, contiguous(room))
        return buffer

    def layout(self, tensor: Tensor) -> Layout:
        """Where a tensor lies; views are resolved, and a reshape that strides cannot express is copied."""
        known = self.layouts.get(id(tensor))
        if known is not None:
            return known
        if tensor.is_constant:
            found: Layout | None = self.constants.layout(tensor)
        else:
            source = tensor.source
            assert isinstance(source, Operation), "a leaf that the program does not have"
            assert source.is_view, f"{source.kind} is read before it is computed"
            inner = source.tensors[0]
            found = view(source.kind, self.layout(inner), tensor.sizes, source.attributes)
            if found is None:
                found = view(source.kind, self.copied(inner), tensor.sizes, source.attributes)
        assert found is not None
        self.layouts[id(tensor)] = found
        return found

    def copied(self, tensor: Tensor) -> Layout:
        """A contiguous copy."""
        layout = self.layout(tensor)
        out = self._fresh(tensor.sizes, self.buffers[layout.buffer].precision)
        self._copy(layout, out)
        return out

    def _copy(self, x: Layout, out: Layout) -> None:
        order = memory_order(out.sizes, [out])
        turned = [tuple(items[axis] for axis in order) for items in (out.sizes, x.strides, out.strides)]
        sizes, (read, written) = coalesce(turned[0], turned[1:])
        self.node("copy", [Layout(x.buffer, x.offset, sizes, read)], [Layout(out.buffer, out.offset, sizes, written)])

    def _fresh(self, sizes: Sizes, precision: str, order: Sequence[int] | None = None) -> Layout:
        return Layout(self.new_buffer("arena", precision, prod(sizes)), 0, sizes, contiguous(sizes, order))

    def output(self, tensor: Tensor, order: Sequence[int] | None = None) -> Layout:
        """A fresh buffer for what an operation returns."""
        layout = self._fresh(tensor.sizes, tensor.precision, order)
        self.layouts[id(tensor)] = layout
        return layout

    def value(self, layout: Layout | None) -> int:
        if layout is None:
            return -1
        if len(layout.sizes) > MAX_RANK:
            raise CaptureError(
                f"[capture] {self.origin}: a tensor of {len(layout.sizes)} axes, and a program has at most "
                f'{MAX_RANK}; use engine="torch"'
            )
        value = Value(layout.buffer, layout.offset, layout.sizes, layout.strides)
        return self.values.setdefault(value, len(self.values))

    def node(
        self,
        kind: str,
        inputs: Sequence[Layout | None],
        outputs: Sequence[Layout],
        ints: Mapping[str, tuple[int, ...]] | None = None,
        floats: Mapping[str, tuple[float, ...]] | None = None,
    ) -> None:
        given = tuple(self.value(layout) for layout in inputs)
        made = tuple(self.value(layout) for layout in outputs)
        self.nodes.append(Node(kind, given, made, ints or {}, floats or {}, self.origin))

    def _in_arena(self, tensor: Tensor) -> Layout:
        """What leaves the step is never a view of what the step is given."""
        layout = self.layout(tensor)
        return layout if self.buffers[layout.buffer].kind == "arena" else self.copied(tensor)

    def _next(self, position: int) -> NextState:
        buffer, tensor, slide = self.states[position], self.wired.next_states[position], self.wired.slides[position]
        layout = self._in_arena(tensor)
        if slide is None:
            return NextState(buffer, self.value(layout))
        rows = (slide.outer, slide.length_in, slide.inner)
        strides = reshape_strides(layout.sizes, layout.strides, rows)
        if strides is None:
            layout = self.copied(tensor)
            strides = contiguous(rows)
        joining = self.value(Layout(layout.buffer, layout.offset, rows, strides))
        return NextState(buffer, joining, slide.length_in, slide.outer, slide.length, slide.inner, slide.pitch)

    # ---------------------------------------------------------------- elementwise

    def _elementwise(self, group: Group) -> None:
        sizes = group.operations[0].outputs[0].sizes
        made = {id(operation) for operation in group.operations}
        tensors = group.inputs()
        layouts = [_broadcast(self.layout(x), sizes) for x in tensors]
        order = memory_order(sizes, layouts)
        results = [op.outputs[0] for op in group.operations if self.wired.leaves(op.outputs[0], made)]
        outputs = [self._part_of_concatenation(x, order) or self.output(x, order) for x in results]
        turned = tuple(sizes[axis] for axis in order)
        strides = [tuple(layout.strides[axis] for axis in order) for layout in (*layouts, *outputs)]
        fewest, steps = coalesce(turned, strides)
        flat = [
            Layout(layout.buffer, layout.offset, fewest, step)
            for layout, step in zip((*layouts, *outputs), steps, strict=True)
        ]
        registers = {id(x): number for number, x in enumerate(tensors)}
        code: list[int] = []
        numbers: list[float] = []
        count = len(tensors)
        known: dict[str, int] = {}

        def instruct(opcode: str, arguments: Sequence[int], number: float = 0.0) -> int:
            nonlocal count
            code.extend((OPCODE[opcode], count, *arguments, *(0,) * (3 - len(arguments))))
            numbers.append(number)
            count += 1
            return count - 1

        for operation in group.operations:
            arguments = []
            for operand in operation.inputs:
                if isinstance(operand, Tensor):
                    arguments.append(registers[id(operand)])
                else:
                    assert operand is not None
                    if repr(operand) not in known:
                        known[repr(operand)] = instruct("constant", [], operand)
                    arguments.append(known[repr(operand)])
            opcode = operation.attributes["opcode"]
            if opcode == "cast":
                register = arguments[0]
            else:
                assert ARITY[opcode] == len(arguments), opcode
                register = instruct(opcode, arguments)
            registers[id(operation.outputs[0])] = register
        if not code:  # conversions only
            for x in results:
                source = tensors[registers[id(x)]]
                self._copy(_broadcast(self.layout(source), sizes), self.layouts[id(x)])
            return
        self.node(
            "elementwise",
            flat[: len(layouts)],
            flat[len(layouts) :],
            {"code": tuple(code), "output_registers": tuple(registers[id(x)] for x in results)},
            {"values": tuple(numbers)},
        )

    # ---------------------------------------------------------------- products

    def _linear(self, operation: Operation) -> None:
        x, weight, bias = operation.inputs
        assert isinstance(x, Tensor)
        assert isinstance(weight, Tensor)
        read, (out,) = self.layout(x), operation.outputs
        written = self.output(out)
        rows, (read_rows,) = coalesce(x.sizes[:-1], [read.strides[:-1]])
        made = (*rows, out.sizes[-1])
        self.node(
            "linear",
            [
                Layout(read.buffer, read.offset, (*rows, x.sizes[-1]), (*read_rows, read.strides[-1])),
                self.constants.layout(weight, whole=True),
                self.constants.layout(bias, whole=True) if isinstance(bias, Tensor) else None,
            ],
            [Layout(written.buffer, 0, made, contiguous(made))],
        )

    def _convolution(self, operation: Operation) -> None:
        x, weight, bias = operation.inputs
        assert isinstance(x, Tensor)
        assert isinstance(weight, Tensor)
        (out,) = operation.outputs
        read = self.layout(x)
        written = self.output(out, (0, *range(2, out.rank), 1))
        given = operation.attributes
        self.node(
            "convolution",
            [
                read,
                self.constants.layout(weight, whole=True),
                self.constants.layout(bias, whole=True) if isinstance(bias, Tensor) else None,
            ],
            [written],
            {name: given[name] for name in ("stride", "padding", "dilation")} | {"groups": (given["groups"],)},
        )

    def _matmul(self, operation: Operation) -> None:
        a, b = (self.layout(x) for x in operation.tensors)
        out = self.output(operation.outputs[0])
        leading, strides = coalesce(out.sizes[:-2], [a.strides[:-2], b.strides[:-2]])
        read = [
            Layout(x.buffer, x.offset, (*leading, *x.sizes[-2:]), (*step, *x.strides[-2:]))
            for x, step in zip((a, b), strides, strict=True)
        ]
        made = (*leading, *out.sizes[-2:])
        self.node("matmul", read, [Layout(out.buffer, 0, made, contiguous(made))])

    def _attention(self, operation: Operation) -> None:
        q, k, v, mask = (self.layout(x) if isinstance(x, Tensor) else None for x in operation.inputs)
        (tensor,) = operation.outputs
        rank = tensor.rank
        # heads of a position lie together, so that joining them moves nothing
        order = (0, rank - 2, *range(1, rank - 2), rank - 1) if rank > 3 else range(rank)
        given = operation.attributes
        self.node(
            "attention",
            [q, k, v, mask],
            [self.output(tensor, order)],
            {"causal": (int(given["causal"]),), "causal_offset": (given["causal_offset"],)},
            {"scale": (given["scale"],)},
        )

    # ---------------------------------------------------------------- rows

    def _reduce(self, operation: Operation) -> None:
        (x,), (out,) = operation.tensors, operation.outputs
        read, written = self.layout(x), self.output(out)
        axes = set(operation.attributes["axes"])
        sizes: list[int] = []
        strides: list[int] = []
        kept: list[int] = []
        chosen: list[int] = []
        for is_reduced, members in _stretches([axis in axes for axis in range(x.rank)]):
            inner, (step,) = coalesce(tuple(x.sizes[a] for a in members), [tuple(read.strides[a] for a in members)])
            if inner == (1,) and len(members) < x.rank:
                continue
            if is_reduced:
                chosen += range(len(sizes), len(sizes) + len(inner))
            sizes += inner
            strides += step
            kept += [1 if is_reduced else size for size in inner]
        if not sizes:
            sizes, strides, kept = [1], [0], [1]
        self.node(
            "reduce",
            [Layout(read.buffer, read.offset, tuple(sizes), tuple(strides))],
            [Layout(written.buffer, 0, tuple(kept), contiguous(kept))],
            {"kind": (REDUCTIONS.index(operation.attributes["reduction"]),), "axes": tuple(chosen)},
        )

    def _rows(self, operation: Operation, last: int) -> tuple[Layout, list[Layout], int]:
        """The input and outputs with few leading axes, and few of the `last` last ones: how many those are."""
        (x,) = operation.tensors
        read = self.layout(x)
        split = x.rank - last
        outputs = [self.output(out) for out in operation.outputs]
        leading, (step,) = coalesce(x.sizes[:split], [read.strides[:split]])
        trailing, (inner,) = coalesce(x.sizes[split:], [read.strides[split:]])
        written = [
            Layout(out.buffer, 0, (*leading, *own), contiguous((*leading, *own)))
            for out in outputs
            for own in [trailing if out.sizes[split:] == x.sizes[split:] else out.sizes[split:]]
        ]
        return Layout(read.buffer, read.offset, (*leading, *trailing), (*step, *inner)), written, len(trailing)

    def _softmax(self, operation: Operation) -> None:
        read, written, _ = self._rows(operation, 1)
        self.node("softmax", [read], written, {"logarithm": (int(operation.attributes["logarithm"]),)})

    def _normalize(self, operation: Operation) -> None:
        given = operation.attributes
        read, written, axes = self._rows(operation, given["axes"])
        ints = {"axes": (axes,), "center": (int(given["center"]),)}
        self.node("normalize", [read], written, ints, {"epsilon": (given["epsilon"],)})

    def _top_k(self, operation: Operation) -> None:
        given = operation.attributes
        read, written, _ = self._rows(operation, 1)
        self.node("top_k", [read], written, {"count": (given["count"],), "largest": (int(given["largest"]),)})

    def _scan(self, operation: Operation) -> None:
        (x,) = operation.tensors
        axis = operation.attributes["axis"]
        read, written = self.layout(x), self.output(operation.outputs[0])
        before, (outer,) = coalesce(x.sizes[:axis], [read.strides[:axis]])
        after, (inner,) = coalesce(x.sizes[axis + 1 :], [read.strides[axis + 1 :]])
        sizes = (*before, x.sizes[axis], *after)
        self.node(
            "scan",
            [Layout(read.buffer, read.offset, sizes, (*outer, read.strides[axis], *inner))],
            [Layout(written.buffer, 0, sizes, contiguous(sizes))],
            {"axis": (len(before),), "product": (int(operation.attributes["product"]),)},
        )

    # ---------------------------------------------------------------- movement

    def _concatenate(self, operation: Operation) -> None:
        """Copies, but for the pieces that were computed in place."""
        (out,) = operation.outputs
        pieces = [self.layout(x) for x in operation.tensors]
        whole = self.layouts.get(id(out))
        if whole is None:
            largest = max(pieces, key=lambda x: prod(n for n, s in zip(x.sizes, x.strides, strict=True) if s))
            whole = self.output(out, memory_order(largest.sizes, [largest]))
        for number, piece in enumerate(pieces):
            if piece.buffer != whole.buffer:
                self._copy(piece, _piece(operation, number, whole))

    def _part_of_concatenation(self, x: Tensor, order: Sequence[int]) -> Layout | None:
        """The part of a concatenation that x is, where it is nothing else."""
        operation = self.wired.joined.get(id(x))
        if operation is None:
            return None
        (out,) = operation.outputs
        whole = self.layouts.get(id(out)) or self.output(out, order)
        number = next(i for i, piece in enumerate(operation.tensors) if piece is x)
        self.layouts[id(x)] = _piece(operation, number, whole)
        return self.layouts[id(x)]

    def _remap(self, operation: Operation) -> None:
        (x,), (out,) = operation.tensors, operation.outputs
        read = self.layout(x)
        source = operation.attributes["positions"].array
        moved = addresses(read).reshape(-1)[source.clip(min=0)]
        moved[source < 0] = -1
        self.node("remap", [read], [self.output(out)], {"runs": runs(moved)}, {"fill": (0.0,)})

    def _gather(self, operation: Operation) -> None:
        x, index = (self.layout(tensor) for tensor in operation.tensors)
        self.node("gather", [x, index], [self.output(operation.outputs[0])], {"axis": (operation.attributes["axis"],)})


def _piece(operation: Operation, number: int, whole: Layout) -> Layout:
    """Where a piece of a concatenation lies in the whole."""
    axis = operation.attributes["axis"]
    begin = sum(piece.sizes[axis] for piece in operation.tensors[:number])
    return Layout(whole.buffer, begin * whole.strides[axis], operation.tensors[number].sizes, whole.strides)


def _broadcast(layout: Layout, sizes: Sizes) -> Layout:
    """Stride 0 along the axes in which `sizes` are larger."""
    missing = len(sizes) - len(layout.sizes)
    padded = ((1,) * missing + layout.sizes, (0,) * missing + layout.strides)
    strides = tuple(0 if have != want else stride for have, stride, want in zip(*padded, sizes, strict=True))
    return Layout(layout.buffer, layout.offset, sizes, strides)


def _stretches(flags: Sequence[bool]) -> list[tuple[bool, list[int]]]:
    """Adjacent positions with equal flags."""
    result: list[tuple[bool, list[int]]] = []
    for position, flag in enumerate(flags):
        if result and result[-1][0] == flag:
            result[-1][1].append(position)
        else:
            result.append((flag, [position]))
    return result
