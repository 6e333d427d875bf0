"""Which elementwise operations become one node: greedily, as far as sizes, precision and the limits of a node allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tqs_fast.capture.graph import VIEWS, Operation, Tensor
from tqs_fast.capture.opcodes import MAX_INPUTS, MAX_INSTRUCTIONS, MAX_OUTPUTS
from tqs_fast.capture.passes import users_of
from tqs_fast.capture.program import computed_in


@dataclass(eq=False)
class Group:
    """Operations that are computed together: elementwise ones, or a single one of another kind."""

    operations: list[Operation] = field(default_factory=list)
    number: int = 0

    @property
    def is_elementwise(self) -> bool:
        return self.operations[0].kind == "elementwise"

    def inputs(self) -> list[Tensor]:
        """Tensors from outside, each once."""
        made = {id(operation) for operation in self.operations}
        found = {id(x): x for operation in self.operations for x in operation.tensors if id(x.source) not in made}
        return list(found.values())


def compute_precision(operation: Operation) -> str:
    """A conversion is computed in the wider of its two precisions, everything else in its own (float32 for 16 bits)."""
    return computed_in(operation.outputs[0].precision, *(x.precision for x in operation.tensors))


def _is_read_rounded(x: Tensor, maker: Operation, reader: Operation) -> bool:
    """Whether x must be read back as it is stored. A node rounds what it writes to 16 bits and nothing before, unless
    the step itself converts on from there.
    """
    narrow = computed_in(x.precision) != x.precision
    return computed_in(x.precision) != compute_precision(maker) or (narrow and reader.attributes["opcode"] == "cast")


def fuse(operations: Sequence[Operation], results: Sequence[Tensor]) -> list[Group]:
    """Groups in an order in which they can be computed; views are left out.

    An operation joins the group of one of its inputs when sizes and precision agree, the node stays within its limits
    and nothing between the two has to be computed outside. No operation is computed twice.
    """
    return _Fusion(operations, results).run()


class _Fusion:
    def __init__(self, operations: Sequence[Operation], results: Sequence[Tensor]) -> None:
        self.operations = operations
        self.groups: list[Group] = []
        self.group_of: dict[int, Group] = {}
        # group number -> bits of the groups it depends on, itself not included, closed under transitivity
        self.before: list[int] = []
        self.after: list[int] = []
        self.users = users_of(operations, results)

    def run(self) -> list[Group]:
        for operation in self.operations:
            if operation.is_view:
                continue
            sources = {group.number for x in operation.tensors for group in self._makers(x)}
            joined = None
            if operation.kind == "elementwise":
                # the latest first: chains grow at their end
                direct = sorted({g.number for x in operation.tensors for g in self._direct(x)}, reverse=True)
                joined = next((n for n in direct if self._joins(operation, n, sources)), None)
            if joined is None:
                joined = len(self.groups)
                self.groups.append(Group(number=joined))
                self.before.append(0)
                self.after.append(0)
            group = self.groups[joined]
            group.operations.append(operation)
            self.group_of[id(operation)] = group
            self._depend(joined, sources - {joined})
            if operation.kind == "elementwise":
                self._merge_inputs(group, operation)
        return self._ordered()

    def _direct(self, x: Tensor) -> list[Group]:
        group = self.group_of.get(id(x.source))
        return [group] if group is not None and group.is_elementwise else []

    def _makers(self, x: Tensor) -> list[Group]:
        """The group that computes x or what x is a view of."""
        source = x.source
        while isinstance(source, Operation) and source.is_view:
            source = source.tensors[0].source
        group = self.group_of.get(id(source))
        return [] if group is None else [group]

    def _joins(self, operation: Operation, number: int, sources: set[int]) -> bool:
        group = self.groups[number]
        first = group.operations[0]
        if operation.outputs[0].sizes != first.outputs[0].sizes:
            return False
        if compute_precision(operation) != compute_precision(first):
            return False
        if self._views_of([operation], number):
            return False
        made = {id(member): member for member in group.operations}
        for x in operation.tensors:
            member = made.get(id(x.source))
            if member is not None and _is_read_rounded(x, member, operation):
                return False
        others = 0
        for source in sources - {number}:
            others |= self.before[source]
        if others >> number & 1:
            return False
        return self._fits([*group.operations, operation])

    def _merge_inputs(self, group: Group, operation: Operation) -> None:
        """Other elementwise groups that the operation reads join too, where they can."""
        for number in sorted({g.number for x in operation.tensors for g in self._direct(x)} - {group.number}):
            other = self.groups[number]
            first, second = other.operations[0], group.operations[0]
            if first.outputs[0].sizes != second.outputs[0].sizes:
                continue
            if compute_precision(first) != compute_precision(second):
                continue
            members = {id(member) for member in other.operations} | {id(member) for member in group.operations}
            rounded = any(
                id(x.source) in members and isinstance(x.source, Operation) and _is_read_rounded(x, x.source, member)
                for member in (*other.operations, *group.operations)
                for x in member.tensors
            )
            # a path from one to the other through a third would become a circle
            between = self.before[group.number] & self.after[number]
            backwards = self.before[number] >> group.number & 1
            apart = rounded or between or backwards or self._views_of(group.operations, number)
            if not apart and self._fits([*other.operations, *group.operations]):
                self._absorb(group, other)

    def _views_of(self, operations: Sequence[Operation], number: int) -> bool:
        """Whether one of them reads a group through a view, which needs its values in memory."""
        views = (x for operation in operations for x in operation.tensors if x.kind in VIEWS)
        return any(group.number == number for x in views for group in self._makers(x))

    def _absorb(self, group: Group, other: Group) -> None:
        group.operations[:0] = other.operations
        for operation in other.operations:
            self.group_of[id(operation)] = group
        other.operations = []
        keep, gone = group.number, other.number
        ends = 1 << gone | 1 << keep
        before = (self.before[keep] | self.before[gone]) & ~ends
        after = (self.after[keep] | self.after[gone]) & ~ends
        self.before[gone] = self.after[gone] = 0
        self.before[keep], self.after[keep] = before, after
        for number in _bits(after):
            self.before[number] = (self.before[number] | before | 1 << keep) & ~(1 << gone)
        for number in _bits(before):
            self.after[number] = (self.after[number] | after | 1 << keep) & ~(1 << gone)

    def _depend(self, number: int, sources: set[int]) -> None:
        gained = 0
        for source in sources:
            gained |= self.before[source] | 1 << source
        gained &= ~self.before[number]
        if not gained:
            return
        followers = [number, *_bits(self.after[number])]
        mask = 0
        for follower in followers:
            self.before[follower] |= gained
            mask |= 1 << follower
        for source in _bits(gained):
            self.after[source] |= mask

    def _fits(self, operations: Sequence[Operation]) -> bool:
        made = {id(operation) for operation in operations}
        inputs = {id(x) for operation in operations for x in operation.tensors if id(x.source) not in made}
        if len(inputs) > MAX_INPUTS or len(operations) > MAX_INSTRUCTIONS:
            return False
        outputs = sum(bool(self.users[id(operation.outputs[0])] - made) for operation in operations)
        return outputs <= MAX_OUTPUTS

    def _ordered(self) -> list[Group]:
        """By dependence, and in the order of the step where that leaves a choice."""
        position = {id(operation): i for i, operation in enumerate(self.operations)}
        alive = [group for group in self.groups if group.operations]
        for group in alive:
            group.operations.sort(key=lambda operation: position[id(operation)])
        done, ordered = 0, []
        waiting = sorted(alive, key=lambda group: position[id(group.operations[-1])])
        while waiting:
            later = []
            for group in waiting:
                if self.before[group.number] & ~done:
                    later.append(group)
                else:
                    ordered.append(group)
                    done |= 1 << group.number
            assert len(later) < len(waiting), "groups depend on each other in a circle"
            waiting = later
        return ordered


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
