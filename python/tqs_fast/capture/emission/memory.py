"""The memory of a program: which buffer a tensor lies in and how, and the nodes that write there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from tqs_fast.capture.constants import ConstantPool
from tqs_fast.capture.graph import Leaf, Operation, Tensor
from tqs_fast.capture.layout import Layout, Sizes, coalesce, contiguous, memory_order, view
from tqs_fast.capture.opcodes import MAX_RANK
from tqs_fast.capture.program import Buffer, Node, Value
from tqs_fast.capture.wiring import Slide, Wired
from tqs_fast.errors import CaptureError


class Memory:
    """Buffers, values and nodes, as far as a step has been emitted.

    Attributes:
        values: the views in use, with their indices.
        layouts: id of a tensor -> where it lies.
        origin: of the nodes that are added next.
        states, inputs: buffers of the leaves.
    """

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

    def new_buffer(self, kind: str, precision: str, elements: int) -> int:
        """Adds a buffer; its index."""
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
        self.copy(layout, out)
        return out

    def copy(self, x: Layout, out: Layout) -> None:
        """Adds a node that copies."""
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
        """The index of a view of memory; -1 for None."""
        if layout is None:
            return -1
        if len(layout.sizes) > MAX_RANK:
            raise CaptureError(
                f"[capture] {self.origin}: a tensor of {len(layout.sizes)} axes, and a program has at most "
                f'{MAX_RANK}; use engine="torch"'
            )
        if 0 in layout.sizes:
            raise CaptureError(
                f"[capture] {self.origin}: a tensor has no elements (a size is zero), which a program cannot hold; "
                'leave it out of the step, or use engine="torch"'
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
        """Adds a node."""
        given = tuple(self.value(layout) for layout in inputs)
        made = tuple(self.value(layout) for layout in outputs)
        self.nodes.append(Node(kind, given, made, ints or {}, floats or {}, self.origin))
