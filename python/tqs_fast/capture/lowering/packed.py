"""The operators of packed modules (tqs_fast.ops). What they do with constants alone is folded like anything else."""

from __future__ import annotations

from tqs_fast import ops  # registers them, too
from tqs_fast.capture.graph import Operation, Tensor
from tqs_fast.capture.lowering.elementwise import result
from tqs_fast.capture.lowering.indexing import take
from tqs_fast.capture.lowering.registry import Context, lowers


@lowers("tqs_fast.qgemm.default")
def qgemm(
    context: Context,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
    bias: Tensor | None,
    int8: bool = False,
) -> Tensor:
    """x [..., K] times the weight as it is stored; the bias is added apart where it is no constant."""
    if not (codes.is_constant and scales.is_constant and (zeros is None or zeros.is_constant)):
        raise context.error("a product with a packed weight that depends on the state is not supported")
    graph = context.graph
    columns = codes.sizes[0]
    own = bias if bias is not None and bias.is_constant else None
    single = context.convert(x, "float32") if x.precision == "float64" else x  # as the operator has it
    rows = single if x.rank > 1 else graph.reshape(single, (1, *x.sizes))
    y = graph.add(
        "packed_linear",
        [rows, None if own is None else context.convert(own, "float32")],
        (*rows.sizes[:-1], columns),
        weight=graph.packed(codes, scales, zeros, bits, group_size, in_features),
        int8=int8,
    )[0]
    y = context.convert(graph.reshape(y, (*x.sizes[:-1], columns)), x.precision)
    return y if bias is None or own is not None else result(context, "add", y, bias)


@lowers("tqs_fast.dequantize.default")
def dequantize(
    context: Context,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
) -> Tensor:
    """Rows of a constant table that are chosen by the state (an embedding): the same rows of the dequantized table."""
    parts = [codes, scales] if zeros is None else [codes, scales, zeros]
    taken = [_taken(part) for part in parts]
    tables = [found[0] for found in taken if found is not None]
    indices = {id(found[1]) for found in taken if found is not None}
    if len(tables) < len(parts) or len(indices) != 1:
        raise context.error("a packed weight that depends on the state is not supported, but for rows of a constant")
    assert taken[0] is not None
    given = (tables[0], tables[1], tables[2] if len(tables) == 3 else None)
    graph = context.graph
    table = graph.fold(ops.dequantize, *given, bits, group_size, in_features, precision="float32")
    index = graph.reshape(taken[0][1], (codes.sizes[0], 1))
    return take(context, table, 0, graph.expand(index, context.sizes))


def _taken(part: Tensor) -> tuple[Tensor, Tensor] | None:
    """The constant and the positions, where `part` is rows of a constant."""
    source = part.source
    if not isinstance(source, Operation) or source.kind != "gather" or source.attributes["axis"] != 0:
        return None
    table, index = source.tensors
    while isinstance(index.source, Operation) and index.kind in ("expand", "reshape"):
        index = index.source.tensors[0]
    return (table, index) if table.is_constant else None
