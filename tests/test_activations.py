"""Products of layers with rows rounded to int8: the operator, every module kind, and state that travels."""

from __future__ import annotations

import copy
import io
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from cases.modules import CASES
from packing import outputs, plan_for
from rounding import assert_rounded_product, int8_plan, rounded, rounding_plan
from tqs_fast import kernels, ops
from tqs_fast.rewriting import PackedTensor, packed_block
from tqs_fast.rewriting.packed_block import PackedBlock

FORMATS = list(itertools.product((2, 3, 4, 8), (0, 32), (True, False)))
ROUNDED_CASES = [case for case in CASES if case.name != "Linear-scalar"]  # a row of one number is rounded to itself


def weight_of(rows: int, columns: int, bits: int = 4, group_size: int = 32, symmetric: bool = True):
    """(arguments of `ops.qgemm` after x, the weight in float64, groups a row)."""
    generator = np.random.default_rng(rows + columns + bits)
    values = generator.standard_normal((rows, columns)).astype(np.float32)
    packed = kernels.pack(values, bits=bits, group_size=group_size, symmetric=symmetric)
    zeros = None if packed.zeros is None else torch.from_numpy(packed.zeros)
    scales = torch.from_numpy(packed.scales.view(np.int16))
    arguments = (torch.from_numpy(packed.codes), scales, zeros, bits, group_size, columns)
    return arguments, packed.dequantize().astype(np.float64), packed.scales.shape[1]


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the operator


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), FORMATS)
def test_product(bits, group_size, symmetric):
    arguments, weight, groups = weight_of(7, 75, bits, group_size, symmetric)
    for shape in ((75,), (1, 75), (2, 3, 75), (0, 75)):
        for bias in (None, drawn(7)):
            x = drawn(*shape) * 3
            y = ops.qgemm(x, *arguments, bias, "int8")
            assert y.shape == (*shape[:-1], 7)
            assert_rounded_product(y, x, weight, bias, groups)


def test_the_oracle_would_see_rows_that_are_not_rounded():
    arguments, weight, groups = weight_of(7, 75)
    with pytest.raises(AssertionError, match="bound"):
        assert_rounded_product(ops.qgemm(drawn(3, 75), *arguments), drawn(3, 75), weight, None, groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_go_through_float32(dtype):
    arguments, _, _ = weight_of(7, 75)
    x, bias = drawn(5, 75).to(dtype), drawn(7).to(dtype)
    expected = ops.qgemm(x.float(), *arguments, bias.float(), "int8")
    y = ops.qgemm(x, *arguments, bias, "int8")
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))


def test_rows_stand_alone():
    """Whatever else is in the batch, and whether the weight is kept or a part of another."""
    (codes, scales, zeros, *rest), _, _ = weight_of(9, 75, symmetric=False)
    x = drawn(13, 75) * torch.logspace(-6, 6, 13).unsqueeze(1)
    y = ops.qgemm(x, codes, scales, zeros, *rest, None, "int8")
    alone = torch.cat([ops.qgemm(row, codes, scales, zeros, *rest, None, "int8").unsqueeze(0) for row in x])
    assert torch.equal(y, alone)
    assert torch.equal(y[:, 2:5], ops.qgemm(x, codes[2:5], scales[2:5], zeros[2:5], *rest, None, "int8"))
    x[3, 5] = torch.inf
    spoiled = ops.qgemm(x, codes, scales, zeros, *rest, None, "int8")
    assert spoiled[3].isnan().all()
    assert torch.equal(spoiled[4:], y[4:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_gradients_are_those_of_the_float_product(dtype):
    arguments, _, _ = weight_of(7, 40)
    x, bias, dy = (drawn(*shape).to(dtype) for shape in ((2, 3, 40), (7,), (2, 3, 7)))
    given = (x.requires_grad_(), bias.requires_grad_())
    dx, dbias = torch.autograd.grad(ops.qgemm(x, *arguments, bias, "int8"), given, dy)
    float_dx, float_dbias = torch.autograd.grad(ops.qgemm(x, *arguments, bias), given, dy)
    assert dx.dtype == dbias.dtype == dtype
    torch.testing.assert_close(dx, float_dx)
    torch.testing.assert_close(dbias, float_dbias)
    assert dx.abs().max() > 0.1


def test_opcheck_compile_and_export():
    arguments, _, _ = weight_of(5, 40, symmetric=False)
    given = (drawn(2, 3, 40).requires_grad_(), *arguments, drawn(5).requires_grad_(), True)
    torch.library.opcheck(torch.ops.tqs_fast.qgemm.default, given)

    class Layer(nn.Module):
        def forward(self, x):
            return torch.relu(ops.qgemm(x, *arguments, None, "int8"))

    module, x = Layer(), drawn(3, 40)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))
    assert torch.equal(torch.export.export(module, (x,)).module()(x), module(x))


def test_what_is_refused():
    arguments, _, _ = weight_of(5, 40)
    for x in (drawn(2, 40), drawn(2, 40).double()):
        with pytest.raises(tqs.ArgumentError, match=r"activation must be one of \('float', 'int8'\), got 'int4'"):
            ops.qgemm(x, *arguments, None, "int4")


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)
@pytest.mark.parametrize("row_blocks", [1, 2])
def test_every_module_kind_rounds_its_rows(case, row_blocks, monkeypatch):
    """Each product is that of the oracle for the rows it was given; and the whole is close to the float product's."""
    module, inputs = case.make_module(), case.make_input(2)
    plan = plan_for(module, [8], tqs.Quantizer(32))
    if row_blocks > 1:
        plan = in_blocks(plan, row_blocks)
    small, plain = tqs.quantize(module, rounding_plan(plan)), tqs.quantize(module, plan)
    seen = []

    def checked(x, codes, scales, zeros, bits, group_size, columns, bias=None, activation="float"):
        y = product(x, codes, scales, zeros, bits, group_size, columns, bias, activation)
        weight = ops.dequantize(codes, scales, zeros, bits, group_size, columns).double().numpy()
        assert_rounded_product(y, x, weight, bias, scales.shape[1])
        seen.append(activation)
        return y

    product = ops.qgemm
    monkeypatch.setattr(packed_block.ops, "qgemm", checked)
    y = outputs(small, inputs)
    monkeypatch.undo()
    assert set(seen) <= {"int8"}
    expected = outputs(plain, inputs)
    difference, size = (y - expected).abs().max(), expected.abs().max()
    assert difference < 0.1 * size
    assert bool(difference > 0) == multiplies(small)


def in_blocks(plan: tqs.Plan, count: int) -> tqs.Plan:
    """`plan`, every weight in `count` blocks of rows."""
    layers, bits = [], {}
    for layer in plan.layers:
        rows = layer.shape[0]
        edges = [rows * b // count for b in range(count + 1)]
        for first, end in itertools.pairwise(edges):
            name = f"{layer.name}[{first}:{end}]"
            size = layer.parameters // rows * (end - first)
            layers.append(tqs.Layer(name, layer.kind, (end - first, *layer.shape[1:]), size))
            bits[name] = plan.bits[layer.name]
    return tqs.Plan(bits, tuple(layers), plan.quantizer)


def multiplies(module: nn.Module) -> bool:
    """Whether some packed weight is not an embedding or a convolution with rows below 32 weights."""
    return any(
        not isinstance(part, tqs.rewriting.QuantEmbedding)
        and not (isinstance(part, tqs.rewriting.QuantConv1d | tqs.rewriting.QuantConv2d) and part._row_length() < 32)
        for part in module.modules()
        if isinstance(part, tqs.rewriting.QuantModule) and part.packed_names
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_cells_from_end_to_end():
    """One step from given states: every product reads what it was given, so nothing can be rounded otherwise."""
    x, h, c = (drawn(4, size, seed=seed) for seed, size in enumerate((20, 12, 12)))
    for cell in (nn.GRUCell(20, 12), nn.LSTMCell(20, 12), nn.RNNCell(20, 12)):
        small = tqs.quantize(cell, int8_plan(cell, [4], tqs.Quantizer(0)))
        with torch.no_grad():
            got = small(x, (h, c)) if isinstance(cell, nn.LSTMCell) else small(x, h)
        ih, hh = (
            rounded(part.numpy()) @ getattr(small, f"weight_{name}").double().numpy().T
            + getattr(cell, f"bias_{name}").detach().double().numpy()
            for part, name in ((x, "ih"), (h, "hh"))
        )
        before, memory = h.double().numpy(), c.double().numpy()
        if isinstance(cell, nn.LSTMCell):
            i, f, g, o = np.split(ih + hh, 4, axis=1)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            expected = sigmoid(o) * np.tanh(memory)
            np.testing.assert_allclose(got[1].numpy(), memory, atol=2e-6)
            got = got[0]
        elif isinstance(cell, nn.GRUCell):
            (xr, xz, xn), (hr, hz, hn) = np.split(ih, 3, axis=1), np.split(hh, 3, axis=1)
            new = np.tanh(xn + sigmoid(xr + hr) * hn)
            expected = new + sigmoid(xz + hz) * (before - new)
        else:
            expected = np.tanh(ih + hh)
        np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


# ---------------------------------------------------------------- state


def blocks_of(module: nn.Module) -> list[PackedBlock]:
    return [part for part in module.modules() if isinstance(part, PackedBlock)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 3))


def test_copies_keep_the_choice():
    module, x = network(), drawn(4, 10)
    plan = plan_for(module, [4])
    small = tqs.quantize(module, tqs.Plan(plan.bits, plan.layers, activations={"2.weight": "int8"}))
    assert [block.activation for block in blocks_of(small)] == ["float", "int8"]
    assert [part.activation for part in small.modules() if isinstance(part, PackedTensor)] == ["float", "int8"]
    assert "int8 activations" in repr(small[2])
    assert "int8" not in repr(small[0])
    memory = io.BytesIO()
    torch.save(small, memory)
    memory.seek(0)
    for other in (copy.deepcopy(small), torch.load(memory, weights_only=False)):
        assert [block.activation for block in blocks_of(other)] == ["float", "int8"]
        assert torch.equal(other(x), small(x))


def test_state_dicts_fit_modules_of_the_same_choice():
    module, x = network(), drawn(4, 10)
    small, plain = tqs.quantize(module, int8_plan(module, [4])), tqs.quantize(module, plan_for(module, [4]))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-1)
    other = tqs.quantize(module, int8_plan(module, [4]))
    assert not torch.equal(other(x), small(x))
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), small(x))
    with pytest.raises(RuntimeError, match=r"expected \[bits, group_size, activation, \*shape\] \[4, 128, 0, 20, 10\]"):
        plain.load_state_dict(small.state_dict())
