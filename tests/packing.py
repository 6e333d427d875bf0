"""Plans for test modules, their dequantized twins, and the rounding bound that separates the two."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tqs_fast import Plan, Quantizer
from tqs_fast.quantization.blocks import split
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.scoring import Layer

Apply = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


def plan_for(module: nn.Module, bits: Iterable[int | None], quantizer: Quantizer | None = None) -> Plan:
    """`bits` in turn over the quantizable weights of `module`."""
    weights = find_weights(module)
    layers = tuple(Layer(weight.name, weight.kind, weight.shape, weight.parameters) for weight in weights)
    chosen = {weight.name: b for weight, b in zip(weights, itertools.cycle(bits), strict=False)}
    return Plan(chosen, layers, quantizer or Quantizer())


def block_plan(module: nn.Module, row_blocks: int, quantizer: Quantizer | None = None) -> Plan:
    """Bits in turn over the row blocks of every weight."""
    blocks = [block for weight in find_weights(module) for block in split(weight, row_blocks)]
    layers = tuple(Layer(b.name, b.weight.kind, b.shape, torch.Size(b.shape).numel()) for b in blocks)
    bits = dict(zip((b.name for b in blocks), itertools.cycle((8, 3, 4, 2)), strict=False))
    return Plan(bits, layers, quantizer or Quantizer())


def twin(module: nn.Module, plan: Plan) -> nn.Module:
    """A float copy of `module` that holds the values the plan stores."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for weight in find_weights(other):
            bits = plan.bits[weight.name]
            if bits is not None:
                parameter = parameter_of(other, weight)
                parameter.copy_(plan.quantizer.dequantized(parameter, bits))
    return other


def flat(result: object) -> Tensor:
    """Every float tensor of a result as one float64 vector."""
    parts = [result] if isinstance(result, Tensor) else list(result)
    return torch.cat([part.reshape(-1).double() for part in parts])


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return flat(module(*inputs))


def input_gradients(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """d(sum of cos(i) output_i)/d(float inputs): no output has weight zero."""
    leaves = tuple(part.detach().clone().requires_grad_(part.is_floating_point()) for part in inputs)
    y = flat(module(*leaves))
    (y * torch.cos(torch.arange(len(y), dtype=torch.float64))).sum().backward()
    return flat([part.grad for part in leaves if part.grad is not None])


def cast(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in inputs)


def exact_and_bound(
    apply: Apply, reference: nn.Module, inputs: tuple[Tensor, ...], unit: float
) -> tuple[Tensor, float]:
    """`apply` in float64, and how far a computation with unit roundoff `unit` may be from it.

    Rounded linear algebra is exact for slightly perturbed data (backward stability): a product of length K equals the
    exact one with entries changed by at most K * unit relatively, and by about sqrt(K) * unit when roundings fall at
    random, as they do in sums of mixed signs. So every parameter and input is changed by random signs of relative size
    `unit`, in float64; the largest effect of three draws, times sqrt(150) = 12.2 for the longest product of the cases,
    is the error of one product, and the next 2.6 of the factor 32 are for the gates, softmax and norms behind it. The
    floor is the rounding of the result itself.
    """
    double, points = copy.deepcopy(reference).double(), cast(inputs, torch.float64)
    exact = apply(double, points)
    generator = torch.Generator().manual_seed(3)

    def perturbed(tensor: Tensor) -> Tensor:
        signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
        return tensor * (1 + 1e-7 * signs)  # far above float64 rounding, far below any curvature

    effects = [torch.zeros(())]
    for _ in range(3):
        other = copy.deepcopy(double)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(perturbed(parameter))
        moved = tuple(perturbed(part) if part.is_floating_point() else part for part in points)
        effects.append((apply(other, moved) - exact).abs().max() / 1e-7)
    return exact, 32 * unit * float(max(effects)) + 4 * unit * float(exact.abs().max())


def assert_within(actual: Tensor, exact: Tensor, bound: float) -> None:
    """Every element within `bound`, their root mean square within a third of it, and neither side trivial."""
    error = (actual - exact).abs()
    worst = int(error.argmax())
    assert float(error.max()) <= bound, f"element {worst}: {actual[worst]} against {exact[worst]}, bound {bound}"
    assert float(error.square().mean().sqrt()) <= bound / 3
    assert torch.isfinite(actual).all()
