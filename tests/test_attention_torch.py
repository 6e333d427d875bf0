"""tqs.ops.attention under torch: broadcasting, masks, dtypes, errors, and every way torch takes derivatives of it."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import tqs_fast as tqs
from attention_cases import draw, math_attention
from tqs_fast import _attention_kernel
from tqs_fast.ops import attention

# torch's own forward mode warns of this on first use
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")

HEADS, QUERIES, KEYS, DEPTH, WIDTH, COUNT = 2, 5, 7, 4, 3, 6
TANGENT_CALLS = {"causal": True, "causal_offset": 2}
ARGUMENTS = [draw(HEADS, QUERIES, DEPTH), draw(HEADS, KEYS, DEPTH), draw(HEADS, KEYS, WIDTH), draw(QUERIES, KEYS)]
q0, k0, v0, m0 = ARGUMENTS
dq0, dk0, dv0, dm0 = (draw(COUNT, *part.shape, seed=9) for part in ARGUMENTS)
mix = draw(DEPTH, DEPTH)


def turn(x):
    return x.sin() @ mix


# ------------------------------------------------------------------------------------------------ the function


def test_shared_keys_and_values_are_not_copied(monkeypatch):
    q, k, v = draw(2, 3, 5, 17, 8), draw(2, 1, 1, 30, 8), draw(1, 3, 1, 30, 6)
    expected = math_attention(q, k, v)
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda _: pytest.fail("copied"))
    torch.testing.assert_close(attention(q, k, v), expected)


def test_masks_that_broadcast():
    q, k, v = draw(2, 3, 17, 8), draw(2, 3, 30, 8), draw(2, 3, 30, 6)
    for shape in ((30,), (17, 1), (17, 30), (3, 1, 30), (2, 1, 1, 30), (2, 3, 17, 30), (1,)):
        mask = draw(*shape)
        torch.testing.assert_close(attention(q, k, v, mask=mask), math_attention(q, k, v, mask))
        seen = mask > -0.5
        bias = torch.where(seen, 0.0, -torch.inf).double()
        torch.testing.assert_close(attention(q, k, v, mask=seen), math_attention(q, k, v, bias))
    out = attention(q[0], k[0], v[0], mask=draw(2, 3, 17, 30))
    assert out.shape == (2, 3, 17, 6)


def test_agrees_with_torch():
    q, k, v = draw(2, 3, 17, 8), draw(2, 3, 30, 8), draw(2, 3, 30, 6)
    mask = draw(17, 30) > 0
    mask[:, 0] = True
    torch.testing.assert_close(attention(q, k, v, causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(
        attention(q, k, v, mask=mask, scale=0.3), F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    )


# ------------------------------------------------------------------------------------------------ derivatives

# name: (what is computed with `f`, the formula or the operator; kernel calls it may take)
TRANSFORMS = {
    "jvp": (lambda f: jvp(f, tuple(ARGUMENTS), (dq0[0], dk0[0], dv0[0], dm0[0])), 2),
    "jvp in v": (lambda f: jvp(lambda v: f(q0, k0, v), (v0,), (dv0[0],)), 2),
    "vmap of jvp": (lambda f: vmap(lambda *t: jvp(f, tuple(ARGUMENTS), t)[1])(dq0, dk0, dv0, dm0), 2),
    "vmap of jvp, other dimensions": (
        lambda f: vmap(
            lambda a, b: jvp(lambda k, v: f(q0, k, v), (k0, v0), (a, b)), in_dims=(3, 1), out_dims=(None, 2)
        )(dk0.movedim(0, 3).contiguous(), dv0.movedim(0, 1)),
        2,
    ),
    "vmap": (lambda f: vmap(lambda q: f(q, k0, v0))(dq0), 1),
    "vmap of keys": (lambda f: vmap(lambda k, m: f(q0, k, v0, m), in_dims=(0, 2))(dk0, dm0.movedim(0, 2)), 1),
    "vmap of jvp, both mapped": (
        lambda f: vmap(lambda a, b: jvp(lambda q: f(q, k0, v0), (a,), (b,)))(dq0, dq0.cos()),
        2,
    ),
    "vmap of jvp, keys mapped": (lambda f: vmap(lambda k: jvp(lambda q: f(q, k, v0), (q0,), (dq0[0],)))(dk0), 2),
    "jvp of vmap": (lambda f: jvp(vmap(lambda q: f(q, k0, v0)), (dq0,), (dq0.cos(),)), 2),
    "vmap of vmap of jvp": (
        lambda f: vmap(lambda b: vmap(lambda a: jvp(lambda q, v: f(q, k0, v), (q0, v0), (a, b))[1])(dq0))(dv0),
        2,
    ),
    "jacfwd": (lambda f: jacfwd(f, argnums=(0, 1, 2, 3))(*ARGUMENTS), 2),
    "jacrev": (lambda f: jacrev(f, argnums=(0, 1, 2, 3))(*ARGUMENTS), 1),
    "grad": (lambda f: grad(lambda *x: f(*x).square().sum(), argnums=(0, 1, 2, 3))(*ARGUMENTS), 1),
    "vmap of grad": (lambda f: vmap(grad(lambda q: f(q, k0, v0).square().sum()))(dq0), 1),
    "hessian": (lambda f: hessian(lambda q, v: f(q, k0, v).square().sum(), argnums=(0, 1))(q0, v0), 2),
    "jacrev of jacfwd": (lambda f: jacrev(jacfwd(lambda k: f(q0, k, v0).square().sum()))(k0), 2),
    "jacfwd of jacfwd": (lambda f: jacfwd(jacfwd(lambda q: f(q, k0, v0).sum()))(q0), 3),
    "grad of jvp": (lambda f: grad(lambda k: jvp(lambda q: f(q, k, v0), (q0,), (dq0[0],))[1].square().sum())(k0), 2),
    "jvp of jvp": (
        lambda f: jvp(lambda x: jvp(lambda y, k: f(y, k, v0), (x, k0), (turn(x), dk0[0])), (q0,), (dq0[1],)),
        4,
    ),
    "jvp of jvp of jvp": (
        lambda f: jvp(
            lambda w: jvp(lambda x: jvp(lambda y: f(y, k0, v0), (x,), (turn(x),))[1], (w,), (w.cos(),))[1],
            (q0,),
            (dq0[1],),
        ),
        8,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, monkeypatch):
    transform, most = TRANSFORMS[name]
    calls = []
    real = _attention_kernel.core.attention
    monkeypatch.setattr(_attention_kernel.core, "attention", lambda *task, **how: (calls.append(1), real(*task, **how)))
    got = transform(lambda q, k, v, m=None: attention(q, k, v, mask=m, **TANGENT_CALLS))
    assert len(calls) <= most, f"{len(calls)} calls of the kernel"
    expected = transform(lambda q, k, v, m=None: math_attention(q, k, v, m, **TANGENT_CALLS))
    pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True)
    for ours, formula in pairs:
        torch.testing.assert_close(ours, formula, rtol=1e-12, atol=1e-12)


def test_vmap_over_tangents_is_the_loop_bit_for_bit():
    def along(*tangents):
        return jvp(lambda *x: attention(*x[:3], mask=x[3]), tuple(ARGUMENTS), tangents)[1]

    together = vmap(along)(dq0, dk0, dv0, dm0)
    for lane in range(COUNT):
        assert torch.equal(together[lane], along(dq0[lane], dk0[lane], dv0[lane], dm0[lane]))


def test_numerical_derivatives():
    given = [part[:1, :3].clone().requires_grad_() for part in ARGUMENTS[:3]] + [m0[:3, :3].clone().requires_grad_()]

    def function(q, k, v, m):
        return attention(q, k, v, mask=m, causal=True, causal_offset=1)

    assert torch.autograd.gradcheck(
        function, given, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, given, check_fwd_over_rev=True)


def test_dual_numbers_and_reverse_mode_where_nothing_is_seen():
    q, mask = q0.clone().requires_grad_(), torch.full((QUERIES, KEYS), -torch.inf, dtype=torch.float64)
    mask[1:] = 0
    attention(q, k0, v0, mask=mask).square().sum().backward()
    assert q.grad.isfinite().all()
    assert not q.grad[:, 0].any()
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(attention(forward_ad.make_dual(q0, dq0[0]), k0, v0, mask=mask))
    assert not out.tangent[:, 0].any()
    torch.testing.assert_close(out.tangent, jvp(lambda q: math_attention(q, k0, v0, mask), (q0,), (dq0[0],))[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_widened(dtype):
    q, k, v, m = (part.to(dtype) for part in ARGUMENTS)
    out, dout = jvp(lambda q, m: attention(q, k, v, mask=m), (q, m), (dq0[0].to(dtype), dm0[0].to(dtype)))
    assert out.dtype == dout.dtype == dtype
    wide = jvp(
        lambda q, m: math_attention(q, k.double(), v.double(), m),
        (q.double(), m.double()),
        (dq0[0].to(dtype).double(), dm0[0].to(dtype).double()),
    )
    unit = 2.0**-11 if dtype == torch.float16 else 2.0**-8
    for got, expected in zip((out, dout), wide, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1.01 * unit, atol=1e-5)


def test_operators_are_registered_well():
    settings = (0.5, True, 1)
    given = [part.clone().requires_grad_() for part in ARGUMENTS[:3]]
    torch.library.opcheck(torch.ops.tqs_fast.attention.default, (*given, None, *settings))
    torch.library.opcheck(
        torch.ops.tqs_fast.attention_tangents.default, (*given, None, dq0, None, dv0, None, *settings)
    )


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.project = torch.nn.Parameter(mix.clone())

    def forward(self, x):
        return attention(x @ self.project, x, x, causal=True)


def test_compile_and_export():
    layer, x = Layer(), draw(2, 6, DEPTH)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: torch.export.Dim("length", min=2)},))
    assert any("tqs_fast.attention" in str(node.target) for node in program.graph.nodes)
    for length in (6, 9):
        x = draw(2, length, DEPTH)
        assert torch.equal(compiled(x), layer(x))
        assert torch.equal(program.module()(x), layer(x))
        (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.project)
        (got,) = torch.autograd.grad(compiled(x).square().sum(), layer.project)
        torch.testing.assert_close(got, expected)
    mapped = torch.compile(vmap(lambda q: attention(q, k0, v0)), fullgraph=True, backend="aot_eager")
    assert torch.equal(mapped(dq0), vmap(lambda q: attention(q, k0, v0))(dq0))


def test_a_tangent_is_never_lost_silently():
    """What register_autograd would do: forward mode of the operator with tangent 0."""
    operator = torch.ops.tqs_fast.attention.default

    def call(q):
        return operator(q, k0, v0, None, 0.5, False, 0)

    expected = jvp(lambda q: math_attention(q, k0, v0), (q0,), (dq0[0],))[1]
    torch._dynamo.reset()
    compiled = torch.compile(lambda q: attention(q, k0, v0), backend="aot_eager")
    torch.testing.assert_close(jvp(compiled, (q0,), (dq0[0],))[1], expected)
    with forward_ad.dual_level():
        torch.testing.assert_close(forward_ad.unpack_dual(call(forward_ad.make_dual(q0, dq0[0]))).tangent, expected)
    for refused in (lambda: jvp(call, (q0,), (dq0[0],)), lambda: grad(lambda q: call(q).sum())(q0)):
        with pytest.raises(tqs.TqsError, match=r"go through tqs\.ops\.attention"):
            refused()
    traced = torch.compile(lambda q, d: jvp(lambda q: attention(q, k0, v0), (q,), (d,)), backend="aot_eager")
    with pytest.raises(Exception, match=r"go through tqs\.ops\.attention"):
        traced(q0, dq0[0])


def test_fake_tensors_and_empty_ones():
    out = attention(q0.to("meta"), k0.to("meta"), v0.to("meta"), mask=m0.to("meta"))
    assert (out.shape, out.dtype, out.device.type) == ((HEADS, QUERIES, WIDTH), torch.float64, "meta")
    assert attention(q0[:, :0], k0, v0).shape == (HEADS, 0, WIDTH)
    assert attention(q0[:0], k0[:0], v0[:0]).shape == (0, QUERIES, WIDTH)
    q = q0.clone().requires_grad_()
    nothing = attention(q, k0[:, :0], v0[:, :0])
    nothing.sum().backward()
    assert not nothing.any()
    assert not q.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": q0[..., :3]}, r"expected q \[\.\.\., S, D\], k \[\.\.\., T, D\] .* got \[2, 5, 3\], \[2, 7, 4\]"),
        ({"k": k0[:, :6]}, r"k \[\.\.\., T, D\] and v"),
        ({"q": q0[0, 0]}, r"got \[4\], "),
        ({"q": q0[..., :0], "k": k0[..., :0]}, "with D >= 1"),
        ({"v": v0.float()}, "of one float dtype, got torch.float64, torch.float64, torch.float32"),
        ({"q": q0.int(), "k": k0.int(), "v": v0.int()}, "of one float dtype"),
        ({"mask": m0.float()}, "expected mask of dtype torch.float64 or bool, got torch.float32"),
        ({"mask": m0[:, :6]}, r"a mask that broadcasts to \[\.\.\., S, T\], got .* \[5, 6\]"),
        (
            {"k": k0.expand(3, 2, 7, 4), "mask": m0.expand(2, 2, 5, 7)},
            "leading sizes of q, k, v and mask that broadcast",
        ),
        ({"k": k0.to("meta")}, "expected tensors on one device, the CPU or CUDA, got cpu, meta, cpu"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(tqs.ArgumentError, match=message):
        attention(**({"q": q0, "k": k0, "v": v0} | change))


def test_wrong_operands_of_the_operators_are_named():
    settings = (0.5, False, 0)
    for arguments, message in (
        ((q0, k0[:1], v0, None), "leading sizes"),
        ((q0, k0, v0, m0), "expected mask"),
    ):
        with pytest.raises(tqs.ArgumentError, match=message):
            torch.ops.tqs_fast.attention(*arguments, *settings)
    for tangents, message in (
        ((None,) * 4, "at least one"),
        ((dq0, dk0[:2], None, None), r"expected dk of shape \[6, \*k.shape\]"),
        ((None, None, None, dm0), "expected dmask"),
    ):
        with pytest.raises(tqs.ArgumentError, match=message):
            torch.ops.tqs_fast.attention_tangents(q0, k0, v0, None, *tangents, *settings)
