"""`tqs.growth_rates`: how fast errors in the state grow, asymptotically or over a finite time."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from tqs_fast._progress import Report, tracking
from tqs_fast._version import __version__
from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.growth.finite_time import finite_time
from tqs_fast.growth.lyapunov import lyapunov
from tqs_fast.growth.native_stretching import NativeStretching
from tqs_fast.growth.products import choose_products
from tqs_fast.growth.rates import GrowthRates
from tqs_fast.growth.stretching import Stretcher, TorchStretching
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import InitialConditions, System, default_initial, draw
from tqs_fast.systems.precision import PRECISIONS, in_precision
from tqs_fast.systems.tree import Tree

METHODS = ("qr", "krylov", "power")
ENGINES = ("auto", "native", "torch")
INITIAL = 8  # initial conditions by default
HORIZON = {"qr": 2048, "krylov": 64, "power": 64}
ITERATIONS = {"krylov": 50, "power": 500}
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}


def growth_rates(
    system: System,
    *,
    count: int = 8,
    horizon: int | None = None,
    method: str = "qr",
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    seed: int = 0,
    interval: int | None = None,
    transient: int | None = None,
    iterations: int | None = None,
    tolerance: float | None = None,
    precision: str = "float64",
    engine: str = "auto",
    progress: bool | Report = False,
) -> GrowthRates:
    """Growth rates of infinitesimal errors in the state, natural log per step.

    Args:
        system: a step is one call of `system.step` (a block forecaster emits several values in it).
        count: directions wanted; no more than the state has numbers are computed.
        horizon: steps T to take the rates over; 2048 ("qr") or 64.
        method: "qr" for Lyapunov exponents, the asymptotic rates (Benettin with QR); "krylov" for the finite-time
            exponents (1/T) log σ_i of the tangent map of T steps, by block Krylov with adjoint rollouts; "power" for
            the same by plain power iteration, the baseline.
        initial: where to start; 8 of `system.default_initial` by default. Every initial condition gives an estimate of
            its own.
        seed: of the initial conditions and of the directions started from.
        interval: "qr": steps between orthonormalisations; None: chosen from the transient so that the frame keeps a
            condition number below eps^(-1/4).
        transient: "qr": steps taken before, while the frame aligns; a quarter of the horizon by default. For a system
            that is not yet on its attractor it must also cover the way there.
        iterations: "krylov", "power": blocks at most; 50 or 500.
        tolerance: "krylov", "power": residual relative to σ_i; 1e-6 in float64, 1e-3 in float32.
        precision: "float64" rolls out a copy of the module in float64; "float32" likewise. Logs, orthonormalisation and
            small factorisations are in float64 always.
        engine: "native" runs the whole loop of "qr" in C++ for a step that can be captured, and the products of
            "krylov" and "power" where its transpose can be too; "torch" works for any module; "auto" is the first that
            can, with the reason in `provenance["engine"]`.
        progress: True draws a bar on a terminal; a function is called with (done, total).

    Returns:
        Rates with errors and an outcome: trajectories that diverge, directions that are annihilated and the like end up
        there, with advice, and not in an exception.

    Raises:
        ArgumentError: arguments that do not fit the system, or a step that torch cannot differentiate or that draws
            random numbers.
        CaptureError: engine is "native" and the step cannot be captured.
        DivergenceError: initial conditions cannot be drawn (`Attractor`).
    """
    _check(method, engine, precision, transient)
    horizon = HORIZON[method] if horizon is None else horizon
    _check_positive(count=count, horizon=horizon, interval=interval, iterations=iterations)
    if tolerance is not None and not tolerance > 0:
        raise ArgumentError(f"[growth_rates] tolerance must be positive, got {tolerance!r}")
    warm = 0 if method != "qr" else horizon // 4 if transient is None else transient
    twin = in_precision(system, precision)
    states = draw(
        default_initial(system, INITIAL) if initial is None else initial,
        twin,
        horizon=(warm + horizon) * system.block,
        seed=seed,
    )
    if twin.growing:
        raise ArgumentError(
            f"[growth_rates] the state of {system.name} grows with every step, so that no rate is defined; use a "
            "sliding window (growing=False)"
        )
    size = StateVector(states.state).size
    if size == 0:
        raise ArgumentError(f"[growth_rates] the state of {system.name} has no floating leaf to perturb")
    directions = min(count, size)
    generator = torch.Generator().manual_seed(seed)
    provenance = {
        "system": system.name,
        "block": system.block,
        "horizon": horizon,
        "transient": warm,
        "initial": states.description,
        "seed": seed,
        "precision": precision,
        "versions": {"tqs-fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    epsilon = torch.finfo(PRECISIONS[precision]).eps
    with tracking(progress, f"growth rates of {system.name}") as report:
        if method == "qr":
            stretcher, reason = _choose(engine, twin, states.state)
            provenance["engine"] = {"name": stretcher.name, "reason": reason}
            return lyapunov(
                twin,
                states,
                stretcher,
                directions=directions,
                transient=warm,
                horizon=horizon,
                interval=interval,
                epsilon=epsilon,
                generator=generator,
                provenance=provenance,
                report=report,
            )
        multiplier, reason = choose_products(engine, twin, states.state)
        provenance["engine"] = {"name": multiplier.name, "reason": reason}
        return finite_time(
            twin,
            states,
            multiplier,
            directions=directions,
            horizon=horizon,
            method=method,
            iterations=ITERATIONS[method] if iterations is None else iterations,
            tolerance=TOLERANCE[precision] if tolerance is None else tolerance,
            epsilon=epsilon,
            generator=generator,
            provenance=provenance,
            report=report,
        )


def _choose(engine: str, system: System, state: Tree) -> tuple[Stretcher, str]:
    """What pushes frames, and why."""
    if engine == "torch":
        return TorchStretching(system), "asked for"
    try:
        native = NativeStretching(system, state)
        return native, "asked for" if engine == "native" else "the step was captured"
    except CaptureError as error:
        if engine == "native":
            raise
        return TorchStretching(system), f"the native engine cannot run it: {error}"


def _check(method: str, engine: str, precision: str, transient: int | None) -> None:
    choices = {"method": (method, METHODS), "engine": (engine, ENGINES), "precision": (precision, tuple(PRECISIONS))}
    for name, (value, known) in choices.items():
        if value not in known:
            raise ArgumentError(f"[growth_rates] expected {name} to be one of {', '.join(known)}, got {value!r}")
    if transient is not None and (isinstance(transient, bool) or not isinstance(transient, int) or transient < 0):
        raise ArgumentError(f"[growth_rates] transient must be an integer of at least 0 steps, got {transient!r}")


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(f"[growth_rates] {name} must be an integer of at least 1, got {value!r}")
