"""Engines roll systems out, in lanes: many variants of the weights from the same initial conditions."""

from tqs_fast.engines.reference import Reference, roll_outputs, roll_reference
from tqs_fast.engines.rollout import Rollout, rollout
from tqs_fast.engines.statistics import LaneErrors
from tqs_fast.engines.torch_engine import Lane, fold, run_lanes, run_serial

__all__ = [
    "Lane",
    "LaneErrors",
    "Reference",
    "Rollout",
    "fold",
    "roll_outputs",
    "roll_reference",
    "rollout",
    "run_lanes",
    "run_serial",
]
