"""tqs.ops.attention on a GPU, or on an emulated one (torch_cuda.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import attention_half as half
from attention_cases import Expectation, draw, math_attention, problem, run
from tqs_fast._native import core
from tqs_fast.ops import attention

EMULATED = core.cuda_architectures() == "emulated"
DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(
        core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
    ),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning"),  # torch's own
]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The problems that the native call was given, by the bytes of scratch it had."""
    found = []
    real = core.attention_cuda

    def counted(problem, **where):
        wanted = real(problem, **where)
        if wanted == 0:
            found.append(where["scratch_bytes"])
        return wanted

    monkeypatch.setattr(core, "attention_cuda", counted)
    return found


def given(dtype=torch.float64, masked=True):
    shapes = [(2, 21, 8), (2, 37, 8), (2, 37, 16), (21, 37)]
    primal = [draw(*shape, seed=place).to(DEVICE, dtype) for place, shape in enumerate(shapes)]
    tangents = [draw(5, *part.shape, seed=9).to(DEVICE, dtype) for part in primal]
    return (primal, tangents) if masked else (primal[:3], tangents[:3])


SETTINGS = {"causal": True, "causal_offset": 16}
TRANSFORMS = {
    "jvp": (lambda f, x, dx: jvp(f, tuple(x), tuple(t[0] for t in dx)), 2),
    "vmap of jvp": (lambda f, x, dx: vmap(lambda *t: jvp(f, tuple(x), t)[1])(*dx), 2),
    "one tangent for all lanes": (
        lambda f, x, dx: vmap(lambda t: jvp(lambda q, k: f(q, k, *x[2:]), (x[0], x[1]), (t, dx[1][0]))[1])(dx[0]),
        2,
    ),
    "vmap of other dimensions": (
        lambda f, x, dx: vmap(lambda a: jvp(lambda k: f(x[0], k, *x[2:]), (x[1],), (a,))[1], in_dims=2)(
            dx[1].movedim(0, 2)
        ),
        2,
    ),
    "vmap": (lambda f, x, dx: vmap(lambda q: f(q, *x[1:]))(dx[0]), 1),
    "jacfwd": (
        lambda f, x, dx: jacfwd(lambda v: f(x[0], x[1][:, :4], v, *(mask[:, :4] for mask in x[3:])).sum())(x[2][:, :4]),
        2,
    ),
    "jacrev": (lambda f, x, dx: jacrev(lambda k: f(x[0], k, *x[2:]).sum(1))(x[1]), 1),
    "hessian": (lambda f, x, dx: hessian(lambda q: f(q[:, :3], *x[1:3]).square().sum())(x[0][:, :3]), 2),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, calls):
    transform, most = TRANSFORMS[name]
    x, dx = given()
    got = transform(lambda q, k, v, m=None: attention(q, k, v, mask=m, **SETTINGS), x, dx)
    assert 0 < len(calls) <= most
    expected = transform(lambda q, k, v, m=None: math_attention(q, k, v, m, **SETTINGS), x, dx)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_operators(dtype, calls):
    for queries, keys, masked in ((5, 70, True), (40, 33, False)):
        primal, tangents = problem(queries, keys, 20, 9, dtype, masked=masked)
        settings = {"causal": True, "causal_offset": keys - queries - 3}
        parts = [[None if x is None else x.to(DEVICE) for x in some] for some in (primal, tangents)]
        out, dout = (result.cpu() for result in run(*parts, **settings))
        Expectation(primal, tangents, **settings).check(out, dout)
    assert calls == [0] * 4


# ------------------------------------------------------------------------------------------------ 16 bits

LAYOUTS = {
    "as it is": lambda x: x,
    "heads between": lambda x: x.transpose(-2, -3).contiguous().transpose(-2, -3),
    "transposed": lambda x: x.mT.contiguous().mT,
    "not aligned": lambda x: torch.cat([x[..., :1], x], -1)[..., 1:],
    "two bytes off": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
}


def tensors(problem, data):
    dtype = DTYPES[problem.dtype]
    return [None if part is None else torch.from_numpy(part).to(DEVICE, dtype) for part in data.values]


def lanes(primal, tangents):
    def function(q, k, v, mask=None):
        return attention(q, k, v, mask=mask, **SETTINGS)

    primal, tangents = [part for part in primal if part is not None], [t for t in tangents if t is not None]
    return vmap(lambda *t: jvp(function, tuple(primal), t), out_dims=(None, 0))(*tangents)


def numbers(tensor):
    return tensor.float().cpu().numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sixteen_bits(dtype, layout, calls):
    problem = half.Problem(
        20, 600, 24, 40, dtype, 3, (half.Q, half.K, half.V, half.MASK), heads=2, causal=True, offset=16, masked=True
    )
    data = half.draw(problem)
    parts = [LAYOUTS[layout](part) for part in tensors(problem, data)]
    if layout == "two bytes off":
        assert parts[0].data_ptr() % 16 != 0
    out, dout = lanes([part[0, 0] for part in parts], [part[1:, 0] for part in parts])
    assert out.dtype == dout.dtype == DTYPES[dtype]
    assert len(calls) == 2
    assert min(calls) > 0, "no scratch: not the kernel of tensor cores, whose splits want it"
    half.check(problem, data, numbers(out)[None], numbers(dout)[:, None])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", ["as it is", "heads between"])
def test_sixteen_bits_of_many_queries(layout, masked):
    """From 65 queries on warpgroups compute the tangents, which lie apart from their primal; a mask without tangents
    has a number of keys for which it is copied."""
    problem = half.Problem(80, 71, 64, 40, "bfloat16", 3, heads=2, causal=True, offset=16, masked=masked)
    data = half.draw(problem)
    *parts, mask = [None if part is None else LAYOUTS[layout](part) for part in tensors(problem, data)]

    def function(q, k, v):
        return attention(q, k, v, mask=mask if mask is None else mask[0, 0], **SETTINGS)

    primal = tuple(part[0, 0] for part in parts)
    run_lane = vmap(lambda *t: jvp(function, primal, t), out_dims=(None, 0))
    out, dout = run_lane(*(part[1:, 0] for part in parts))
    half.check(problem, data, numbers(out)[None], numbers(dout)[:, None])


def test_other_widths_go_through_float32(calls):
    problem = half.Problem(20, 30, 20, 13, "bfloat16", 2, heads=2, causal=True, offset=16)
    data = half.draw(problem)
    parts = tensors(problem, data)
    out, dout = lanes([p if p is None else p[0, 0] for p in parts], [p if p is None else p[1:, 0] for p in parts])
    assert out.dtype == dout.dtype == torch.bfloat16
    assert calls == [0, 0]
    half.check(problem, data, numbers(out)[None], numbers(dout)[:, None])


def test_reverse_mode_of_sixteen_bits_is_computed_in_float32():
    x, _ = given(torch.bfloat16, masked=False)
    got = grad(lambda *y: attention(*y, **SETTINGS).float().square().sum(), argnums=(0, 1, 2))(*x)
    wide = grad(lambda *y: math_attention(*y, **SETTINGS).square().sum(), argnums=(0, 1, 2))(*(y.double() for y in x))
    for ours, exact in zip(got, wide, strict=True):
        assert ours.dtype == torch.bfloat16
        # out is rounded, and its gradient: 2^-8 of terms of the size of the largest element; then the result
        assert (ours.double() - exact).abs().max() <= 4 * 2.0**-8 * exact.abs().max()


def test_shared_heads_and_boolean_masks():
    q, k, v = (
        torch.from_numpy(half.rounded(draw(*shape).numpy(), "bfloat16"))
        for shape in ((3, 4, 9, 16), (3, 1, 33, 16), (1, 4, 33, 24))
    )
    mask = draw(9, 33) > -0.5
    got = attention(*(x.to(DEVICE, torch.bfloat16) for x in (q, k, v)), mask=mask.to(DEVICE))
    expected = math_attention(q, k, v, torch.where(mask, 0.0, -torch.inf).double())
    assert np.abs(numbers(got) - expected.numpy()).max() <= 3 * 2.0**-8 * v.abs().max()


def test_what_has_no_address_or_no_kernel_is_refused():
    q = torch.randn(2, 5, 20, dtype=torch.bfloat16, device=DEVICE)
    with pytest.raises(Exception, match=r"does not take torch\.bfloat16 here; call tqs\.ops\.attention"):
        torch.ops.tqs_fast.attention(q, q, q, None, 0.5, False, 0)


def test_a_call_can_be_captured():
    x, dx = given(torch.bfloat16)
    arguments = (*x[:3], None, *dx[:3], None, 0.3, True, 16)
    expected = torch.ops.tqs_fast.attention_tangents(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.ops.tqs_fast.attention_tangents(*arguments)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
