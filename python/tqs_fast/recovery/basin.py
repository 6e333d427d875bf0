"""Line scans from the float weights to the rounded ones: are those still in the basin?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tqs_fast.engines import Lane, choose_engine, roll_reference
from tqs_fast.engines.reference import Reference
from tqs_fast.engines.swapped import require_torch
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import Block
from tqs_fast.quantization.weights import parameter_of
from tqs_fast.recovery.diagnosis import BasinDiagnosis
from tqs_fast.recovery.scan import FloatArray, LineScan
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.rewrite import planned_weights, quantize
from tqs_fast.systems import InitialConditions, System, default_initial, draw

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan
    from tqs_fast.engines import Engine

POSITIONS = np.arange(13) / 8  # 0 to 1.5, with Q(w) at 1
STEP = 1 / 32  # to either side of Q(w) for the slope there: large for float32, small for any wall worth the name


def diagnose_basin(
    system: System,
    plan: Plan,
    *,
    quantized: nn.Module | None = None,
    tolerance: float = 0.01,
    horizon: int = 32,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    seed: int = 4,
) -> BasinDiagnosis:
    """Where the rounded weights lie in the basin of the float ones, per layer and as a whole.

    Damage is measured along w + a (Q(w) - w) for a in [0, 1.5], one layer at a time and all together, and compared with
    its quadratic at w. The picture (a flat basin along a low-loss river, past whose wall rounding may land although
    low-loss rounded points are near) is that of arXiv:2606.09012; the loss is the damage of method.md.

    Args:
        system: the float model; not modified.
        plan: which layers are rounded, and to how many bits.
        quantized: a module that `quantize` or `load` returned for this plan, whose weights are the Q(w); None rounds to
            nearest.
        tolerance: damage that counts as flat: 0.01 is an error of a tenth of the signal's spread.
        horizon: output values per rollout.
        initial: where rollouts start; 16 of `system.default_initial` by default.
        engine: as in `score`. Needs first derivatives for the quadratics.
        seed: of the initial conditions.

    Raises:
        ArgumentError: a tolerance that is not positive, a plan without packed layers or that does not fit the system,
            or a `quantized` that does not fit the plan.
        CaptureError, DivergenceError: as `score`.
    """
    if not 0 < tolerance < np.inf:
        raise ArgumentError(f"[diagnose_basin] tolerance must be a positive number, got {tolerance!r}")
    require_torch("diagnose_basin", system)
    planned = planned_weights(system.module, plan)
    if not planned:
        raise ArgumentError("[diagnose_basin] the plan leaves every layer float; there is nothing rounded to look at")
    small = quantize(system.module, plan) if quantized is None else quantized
    parameters = [_parameter(parameter_of(system.module, weight)) for weight, _ in planned]
    rounded = [dequantized(small, *weight.owners[0]).to(p) for (weight, _), p in zip(planned, parameters, strict=True)]
    moves = [(q - p.detach()) for q, p in zip(rounded, parameters, strict=True)]
    states = draw(default_initial(system) if initial is None else initial, system, horizon=horizon, seed=seed)
    chosen, reason = choose_engine(engine, system, states, parameters, horizon=horizon)
    reference = roll_reference(system, states, horizon, outputs=chosen.roll())
    line = _Line(chosen, reference, parameters, tolerance)
    layers = [
        line.scan(block.name, {index: _rows(move, block)})
        for index, ((_, blocks), move) in enumerate(zip(planned, moves, strict=True))
        for block in blocks
    ]
    return BasinDiagnosis(
        positions=POSITIONS.copy(),
        layers=tuple(layers),
        whole=line.scan("all layers", dict(enumerate(moves))),
        provenance={
            "system": system.name,
            "horizon": horizon,
            "seed": seed,
            "initial": states.description,
            "engine": {"name": chosen.name, "reason": reason},
            "plan": plan.to_json() if quantized is None else _plan_json(quantized, plan),
        },
    )


class _Line:
    """Scans lines through the float weights of one system."""

    def __init__(self, engine: Engine, reference: Reference, parameters: list[nn.Parameter], tolerance: float) -> None:
        self._engine, self._reference, self._parameters = engine, reference, parameters
        self._tolerance = tolerance

    def scan(self, name: str, moves: dict[int, torch.Tensor]) -> LineScan:
        """Along a -> w + a `moves`, weight index -> Q(w) - w."""
        damages = self._damages(moves, [*POSITIONS[1:], 1 - STEP, 1 + STEP])
        damage = np.concatenate([[0.0], damages[:-2]])
        quadratic = self._engine.run_tangents([moves], self._reference).curve.mean(dim=1)
        whole = sum(float(self._parameters[index].detach().double().square().sum()) for index in moves)
        moved = sum(float(move.double().square().sum()) for move in moves.values())
        with np.errstate(invalid="ignore"):  # where both ends diverged
            slope = float((damages[-1] - damages[-2]) / (2 * STEP))
        return LineScan(
            name=name,
            damage=damage,
            quadratic=float(quadratic),
            distance=(moved / whole) ** 0.5 if whole > 0 else 0.0,
            at_rounded=float(damage[POSITIONS.tolist().index(1.0)]),
            slope=slope,
            flat_radius=flat_radius(damage, self._tolerance),
            tolerance=self._tolerance,
        )

    def _damages(self, moves: dict[int, torch.Tensor], positions: list[float]) -> FloatArray:
        lanes = [
            Lane({index: self._parameters[index].detach() + a * move for index, move in moves.items()})
            for a in positions
        ]
        size = self._engine.lanes_per_chunk(self._reference, None)
        found = [
            self._engine.run(lanes[first : first + size], self._reference).curve.mean(dim=1).numpy()
            for first in range(0, len(lanes), size)
        ]
        return np.concatenate(found)


def flat_radius(damage: FloatArray, tolerance: float) -> float:
    """Largest a up to which `damage` at `POSITIONS` stays within `tolerance`, its root straight between them."""
    above = np.flatnonzero(~(damage <= tolerance))
    if not len(above):
        return float(POSITIONS[-1])
    first = int(above[0])
    low, high = POSITIONS[first - 1], POSITIONS[first]
    if not np.isfinite(damage[first]):
        return float(low)
    # as it is where damage is quadratic
    share = (tolerance**0.5 - damage[first - 1] ** 0.5) / (damage[first] ** 0.5 - damage[first - 1] ** 0.5)
    return float(low + share * (high - low))


def _rows(move: torch.Tensor, block: Block) -> torch.Tensor:
    """`move` in the rows of the block, zero elsewhere."""
    return block.replaced(torch.zeros_like(move), block.of(move))


def dequantized(module: nn.Module, path: str, attribute: str) -> torch.Tensor:
    """The rounded weight of `path`.`attribute` of a quantized module."""
    return packed_tensor(module, path, attribute).dequantized()


def packed_tensor(module: nn.Module, path: str, attribute: str) -> PackedTensor:
    """The packed weight `path`.`attribute` of a quantized module."""
    if attribute == "out_proj.weight":  # of an attention: the child's own
        path, attribute = f"{path}.out_proj" if path else "out_proj", "weight"
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        owner = module
    packed = owner.packed[attribute] if isinstance(owner, QuantModule) and attribute in owner.packed else None
    if not isinstance(packed, PackedTensor):
        raise ArgumentError(
            f"[diagnose_basin] expected a packed weight at {path or 'the root'}.{attribute} of quantized, got none; "
            "give the module that quantize returned for this plan"
        )
    return packed


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    assert isinstance(tensor, nn.Parameter)
    return tensor


def _plan_json(quantized: nn.Module, plan: Plan) -> dict[str, object]:
    own = getattr(quantized, "tqs_plan", plan)
    return dict(own.to_json())
