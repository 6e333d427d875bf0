"""The torch operators: registration, dtypes, strides, derivative, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from tqs_fast import _prepared, kernels, ops

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float64: 2.0**-24}
FORMATS = list(itertools.product((2, 3, 4, 8), (0, 32, 128), (True, False)))


def packed(rows, columns, bits=4, group_size=32, symmetric=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = tqs.kernels.pack(
        torch.randn(rows, columns, generator=generator), bits=bits, group_size=group_size, symmetric=symmetric
    )
    zeros = None if weight.zeros is None else torch.from_numpy(weight.zeros)
    arguments = (
        torch.from_numpy(weight.codes),
        torch.from_numpy(weight.scales.view(np.int16)),
        zeros,
        bits,
        group_size,
        columns,
    )
    return arguments, torch.from_numpy(weight.dequantize()).double()


def assert_product(y, x, weight, bias=None):
    """|error| <= (K + 2) u (|x| |W| + |bias|) for float32 sums, and one rounding of the result to its own dtype."""
    x, weight = x.detach().double(), weight.double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double()
    exact = x @ weight.T + bias
    size = x.abs() @ weight.T.abs() + bias.abs()
    bound = (weight.shape[1] + 2) * 2.0**-24 * size + UNIT[y.dtype] * exact.abs()
    error = (y.detach().double() - exact).abs()
    if error.numel():
        worst = int((error - bound).argmax())
        got, allowed = error.reshape(-1)[worst], bound.reshape(-1)[worst]
        assert got <= allowed, f"element {worst}: error {got}, bound {allowed}"


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), FORMATS)
def test_dequantize_is_exact(bits, group_size, symmetric):
    arguments, weight = packed(5, 150, bits, group_size, symmetric)
    assert torch.equal(ops.dequantize(*arguments).double(), weight)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("shape", [(150,), (1, 150), (3, 150), (2, 3, 150), (0, 150)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_product(dtype, shape, biased):
    arguments, weight = packed(7, 150, 3, 32, False)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    bias = torch.randn(7, generator=torch.Generator().manual_seed(2)).to(dtype) if biased else None
    y = ops.qgemm(x, *arguments, bias)
    assert y.dtype == dtype
    assert y.shape == (*shape[:-1], 7)
    assert_product(y, x, weight, bias)
    if dtype == torch.float64:
        torch.testing.assert_close(y, x @ weight.T + (0 if bias is None else bias), rtol=1e-13, atol=1e-13)


LAYOUTS = {
    "column": lambda x: x.t().contiguous().t(),
    "rows": lambda x: torch.stack([x, x], 1)[:, 0],
    "offset": lambda x: torch.cat([x[:, :1], x], 1)[:, 1:],
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:1].expand(6, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strided_inputs(layout, dtype):
    arguments, weight = packed(5, 37)
    x = LAYOUTS[layout](torch.randn(6, 37, generator=torch.Generator().manual_seed(1)).to(dtype))
    assert_product(ops.qgemm(x, *arguments), x, weight)


def test_strided_weight_and_bias():
    """Rows of a larger weight, as attention and grouped convolutions take them, and tensors that are not contiguous."""
    (codes, scales, zeros, *rest), weight = packed(12, 70, 4, 32, False)
    x, bias = torch.randn(3, 70), torch.randn(24)[::2]
    y = ops.qgemm(x, codes[4:9], scales[4:9], zeros[4:9], *rest, bias[4:9])
    assert_product(y, x, weight[4:9], bias[4:9])
    assert_product(ops.qgemm(x, codes[::2], scales[::2], zeros[::2], *rest), x, weight[::2])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_opcheck(symmetric, dtype, biased):
    arguments, _ = packed(5, 40, symmetric=symmetric)
    x = torch.randn(2, 3, 40).to(dtype).requires_grad_()
    bias = torch.randn(5).to(dtype).requires_grad_() if biased else None
    torch.library.opcheck(torch.ops.tqs_fast.qgemm.default, (x, *arguments, bias))
    torch.library.opcheck(torch.ops.tqs_fast.dequantize.default, arguments)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_gradients(dtype):
    arguments, weight = packed(7, 40)
    x, bias = torch.randn(2, 3, 40).to(dtype).requires_grad_(), torch.randn(7).to(dtype).requires_grad_()
    dy = torch.randn(2, 3, 7).to(dtype)
    dx, dbias = torch.autograd.grad(ops.qgemm(x, *arguments, bias), (x, bias), dy)
    assert dx.dtype == dbias.dtype == dtype
    assert_product(dx, dy, weight.T)
    assert_product(dbias.reshape(1, 7), torch.ones(1, 6), dy.reshape(6, 7).T)


def test_only_the_gradients_asked_for():
    arguments, _ = packed(7, 40)
    x, bias = torch.randn(3, 40), torch.randn(7, requires_grad=True)
    ops.qgemm(x, *arguments, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((7,), 3.0))
    assert not ops.qgemm(x, *arguments).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, at first use
@pytest.mark.parametrize("activation", ["float", "int8"])
def test_forward_mode(activation):
    """dy = dx W^T + dbias, for rounded rows too, alone and for many directions at once."""
    arguments, weight = packed(5, 40, symmetric=False)
    generator = torch.Generator().manual_seed(1)
    x, dx, bias, dbias = (torch.randn(shape, generator=generator) for shape in ((3, 40), (4, 3, 40), (5,), (4, 5)))

    def product(x, bias):
        return ops.qgemm(x, *arguments, bias, activation)

    moved = dx.double() @ weight.T
    for bare in (lambda x: product(x, bias), lambda x: ops.qgemm(x, *arguments, None, activation)):
        y, dy = torch.func.jvp(bare, (x,), (dx[0],))
        assert torch.equal(y, bare(x))
        assert_product(dy, dx[0], weight)
    push = torch.func.vmap(lambda dx, dbias: torch.func.jvp(product, (x, bias), (dx, dbias)), out_dims=(None, 0))
    y, dy = push(dx, dbias)
    assert torch.equal(y, product(x, bias))
    torch.testing.assert_close(dy, (moved + dbias.double().unsqueeze(1)).float(), rtol=1e-4, atol=1e-4)
    alone = torch.func.jvp(lambda bias: product(x, bias), (bias,), (dbias[0],))[1]
    assert torch.equal(alone, dbias[0].expand(3, 5))
    torch.testing.assert_close(torch.func.jacfwd(lambda x: product(x, bias))(x[0]), weight.float())
    twice = torch.func.jacfwd(torch.func.jacfwd(lambda x: product(x, bias).square().sum()))(x[0])
    torch.testing.assert_close(twice, (2 * weight.T @ weight).float(), rtol=1e-4, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = product(torch.autograd.forward_ad.make_dual(x, dx[0]), bias)
        torch.testing.assert_close(
            torch.autograd.forward_ad.unpack_dual(dual).tangent, moved[0].float(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("activation", ["float", "int8"])
def test_vmap(activation):
    (codes, *rest), _ = packed(5, 40)
    x, bias = torch.randn(4, 3, 40), torch.randn(4, 5)

    def product(x, bias, codes=codes):
        return ops.qgemm(x, codes, *rest, bias, activation)

    expected = torch.stack([product(*pair) for pair in zip(x, bias, strict=True)])
    torch.testing.assert_close(torch.vmap(product)(x, bias), expected)
    torch.testing.assert_close(torch.vmap(product, (1, None))(x.transpose(0, 1), bias[0])[0], product(x[0], bias[0]))
    torch.testing.assert_close(torch.vmap(product, (None, 0))(x[2], bias)[2], expected[2])
    with pytest.raises(tqs.ArgumentError, match="a packed weight cannot be mapped by vmap"):
        torch.vmap(product)(x, bias, codes.expand(4, *codes.shape))


def test_second_derivative_and_numerical_check():
    arguments, _ = packed(3, 33)
    x = torch.randn(2, 33, requires_grad=True)
    first = torch.autograd.grad(ops.qgemm(x, *arguments).square().sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), x)[0]
    weight = ops.dequantize(*arguments)
    hessian = 2 * weight.T @ weight
    torch.testing.assert_close(second, 2 * (x.detach() @ hessian) @ hessian, rtol=1e-4, atol=1e-3)


def test_compile_and_export():
    arguments, _ = packed(7, 40)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return torch.relu(ops.qgemm(x, *arguments))

    module, x = Layer(), torch.randn(3, 40)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    for rows in (3, 6):
        x = torch.randn(rows, 40)
        assert torch.equal(compiled(x), module(x))
        assert torch.equal(program.module()(x), module(x))
    assert any("qgemm" in str(node.target) for node in program.graph.nodes)


def test_fake_and_meta_tensors():
    arguments, _ = packed(7, 40)
    arguments = tuple(part.to("meta") if isinstance(part, torch.Tensor) else part for part in arguments)
    y = ops.qgemm(torch.empty(2, 3, 40, dtype=torch.bfloat16, device="meta"), *arguments)
    assert (y.shape, y.dtype, y.device.type) == ((2, 3, 7), torch.bfloat16, "meta")
    assert ops.dequantize(*arguments).shape == (7, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 39)}, r"expected x of shape \[\.\.\., 40\], got \[2, 39\]"),
        ({"x": torch.zeros(2, 40, dtype=torch.int64)}, "expected x of a float dtype"),
        ({"x": torch.zeros(())}, r"expected x of shape"),
        ({"bias": torch.zeros(6)}, r"expected bias of shape \[7\], got \[6\]"),
        ({"bits": 5}, "bits must be 2, 3, 4 or 8, got 5"),
        ({"bits": 8}, r"expected codes of shape \[N, 40\]"),
        ({"group_size": 16}, "group_size must be 32, 64, 128 or 0"),
        ({"group_size": 0}, r"expected scales of shape \[7, 1\], got \[7, 2\]"),
        ({"scales": torch.zeros(7, 2)}, "scales int16"),
        ({"zeros": torch.zeros(7, 1, dtype=torch.uint8)}, r"expected zeros of shape \[7, 2\]"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    (codes, scales, zeros, bits, group_size, columns), _ = packed(7, 40)
    given = {"x": torch.zeros(2, 40), "codes": codes, "scales": scales, "zeros": zeros}
    given |= {"bits": bits, "group_size": group_size, "in_features": columns, "bias": None}
    with pytest.raises(tqs.ArgumentError, match=message):
        ops.qgemm(**(given | change))


def test_a_wrong_product_would_be_seen():
    """The planted fault: one code off by one step."""
    (codes, *rest), weight = packed(7, 40)
    codes = codes.clone()
    codes[3, 5] ^= 1
    x = torch.randn(4, 40)
    with pytest.raises(AssertionError, match="bound"):
        assert_product(ops.qgemm(x, codes, *rest), x, weight)


def test_a_kept_weight_follows_changes_of_its_tensors():
    """Products keep a prepacked copy beside the tensors: it must not outlive what they hold, nor the tensors."""
    generator = np.random.default_rng(5)
    first, second = (kernels.pack(generator.standard_normal((40, 70)).astype(np.float32), bits=4) for _ in range(2))
    x = torch.from_numpy(generator.standard_normal((3, 70)).astype(np.float32))
    expected = [torch.from_numpy(kernels.qgemm(x.numpy(), packed)) for packed in (first, second)]
    codes, scales = torch.from_numpy(first.codes.copy()), torch.from_numpy(first.scales.view(np.int16).copy())

    def product(codes, scales):
        return ops.qgemm(x, codes, scales, None, 4, 128, 70)

    assert torch.equal(product(codes, scales), expected[0])
    assert torch.equal(product(codes, scales), expected[0])
    codes.copy_(torch.from_numpy(second.codes))
    scales.copy_(torch.from_numpy(second.scales.view(np.int16)))
    assert torch.equal(product(codes, scales), expected[1])
    other = torch.from_numpy(first.scales.view(np.int16).copy())
    assert not torch.equal(product(codes, other), expected[1])
    assert torch.equal(product(codes[3:9], scales[3:9]), expected[1][:, 3:9])
    kept = len(_prepared._entries)
    assert kept >= 1
    del codes
    assert len(_prepared._entries) == kept - 1
    kept_codes = torch.from_numpy(second.codes)
    for isa in ("scalar", None, "scalar", None):  # a choice made later holds for weights that were used before
        kernels.use_isa(isa)
        assert torch.allclose(product(kept_codes, scales), expected[1], atol=1e-4)
