"""Engines roll systems out, in lanes: many variants of the weights from the same initial conditions."""

from tqs_fast.engines.choose import ENGINES, Engine, choose_engine
from tqs_fast.engines.lane import Change, Drawn, Lane, materialise
from tqs_fast.engines.native_call import split_engine
from tqs_fast.engines.plain import roll_modules
from tqs_fast.engines.reference import Reference, roll_outputs, roll_reference
from tqs_fast.engines.rollout import Rollout, rollout
from tqs_fast.engines.statistics import LaneErrors
from tqs_fast.engines.torch_engine import TorchEngine, fold, run_lanes, run_serial

__all__ = [
    "ENGINES",
    "Change",
    "Drawn",
    "Engine",
    "Lane",
    "LaneErrors",
    "Reference",
    "Rollout",
    "TorchEngine",
    "choose_engine",
    "fold",
    "materialise",
    "roll_modules",
    "roll_outputs",
    "roll_reference",
    "rollout",
    "run_lanes",
    "run_serial",
    "split_engine",
]
