"""Products of drop-ins by one native call: the bits of the torch operator, and where the operator stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import tqs_fast as tqs
from packing import block_plan, plan_for
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import direct


class Calls:
    """Stands in for the native module and counts."""

    def __init__(self) -> None:
        self.count = 0

    def multiply(self, *arguments):
        self.count += 1
        return core.multiply(*arguments)


@pytest.fixture
def calls(monkeypatch):
    counted = Calls()
    monkeypatch.setattr(direct, "core", counted)
    return counted


def by_operator(function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "linear", lambda *_: None)
        return function(*arguments)


MODULES = {
    "linear": (lambda: nn.Linear(33, 45), (7, 33)),
    "linear-no-bias": (lambda: nn.Linear(150, 7, bias=False), (3, 150)),
    "linear-3d": (lambda: nn.Linear(33, 5), (2, 3, 33)),
    "linear-one-row": (lambda: nn.Linear(33, 5), (33,)),
    "linear-no-rows": (lambda: nn.Linear(33, 5), (0, 33)),
    "conv1d": (lambda: nn.Conv1d(20, 6, 5, stride=2), (3, 20, 11)),
    "conv2d": (lambda: nn.Conv2d(5, 6, (3, 4)), (2, 5, 7, 8)),
}


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_the_bits_of_the_operator(name, in_blocks, calls):
    make, shape = MODULES[name]
    module = make()
    plan = block_plan(module, 3) if in_blocks else plan_for(module, [4])
    small = tqs.quantize(module, plan)
    wide = torch.randn(*shape[:-1], 2 * shape[-1])
    with torch.no_grad():
        for x in (torch.randn(shape), wide[..., ::2], wide[..., : shape[-1]], torch.randn(shape[-1]).expand(shape)):
            got, expected = small(x), by_operator(small, x)
            assert torch.equal(got, expected)
            assert (got.shape, got.stride()) == (expected.shape, expected.stride())
    assert calls.count == (0 if name == "linear-no-rows" else 4)


def test_where_the_operator_stays(calls):
    module = nn.Linear(40, 6)
    small = tqs.quantize(module, plan_for(module, [4]))
    x = torch.randn(3, 40)
    small(x).sum().backward()
    assert small.bias.grad is not None
    small.requires_grad_(False)
    assert small(x.requires_grad_()).requires_grad
    with torch.no_grad():
        assert small(x.double()).dtype == torch.float64
        torch.testing.assert_close(torch.vmap(small)(x), by_operator(small, x))
        torch.testing.assert_close(make_fx(small)(x)(x + 1), by_operator(small, x + 1))
    assert calls.count == 0


def test_changes_are_noticed(calls):
    module = nn.Linear(40, 6)
    small = tqs.quantize(module, plan_for(module, [4]))
    x = torch.randn(3, 40)
    with torch.no_grad():
        before = small(x)
        small.packed["weight"].blocks[0].scales.add_(64)  # of bfloat16 bits: larger
        assert not torch.allclose(small(x), before)
        after = by_operator(small, x)
        kernels.use_isa("scalar")
        try:
            torch.testing.assert_close(small(x), after)
        finally:
            kernels.use_isa(None)
    assert calls.count == 3


def test_int8_activations_reach_the_kernel(calls):
    module = nn.Linear(40, 6)
    small = tqs.quantize(module, plan_for(module, [4]))
    x = torch.randn(3, 40)
    step = x.abs().amax(-1, keepdim=True) / 127
    with torch.no_grad():
        expected = by_operator(small, torch.round(x / step) * step)
        small.packed["weight"].blocks[0].activation = "int8"
        torch.testing.assert_close(small(x), expected)
    assert calls.count == 1


def test_errors_are_those_of_the_operator(calls):
    module = nn.Linear(40, 6)
    small = tqs.quantize(module, plan_for(module, [4]))
    with torch.no_grad():
        with pytest.raises(ArgumentError, match=r"expected x of shape \[..., 40\]"):
            small(torch.randn(3, 41))
        with pytest.raises(ArgumentError, match="expected x of a float dtype"):
            small(torch.ones(3, 40, dtype=torch.int32))
        small.bias = nn.Parameter(torch.zeros(5))
        with pytest.raises(ArgumentError, match=r"expected bias of shape \[6\]"):
            small(torch.randn(3, 40))
    assert calls.count == 0
