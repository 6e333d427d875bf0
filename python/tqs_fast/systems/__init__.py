"""Systems and where their rollouts start."""

from tqs_fast.systems.black_box import BlackBox
from tqs_fast.systems.initial import Attractor, Contexts, InitialConditions, States, Synthetic, default_initial, draw
from tqs_fast.systems.load import BUILT_IN, load_system
from tqs_fast.systems.lorenz_gru import lorenz_contexts
from tqs_fast.systems.onnx_system import OnnxSystem
from tqs_fast.systems.precision import in_float64
from tqs_fast.systems.system import Forecaster, Recurrent, System, iterate

__all__ = [
    "BUILT_IN",
    "Attractor",
    "BlackBox",
    "Contexts",
    "Forecaster",
    "InitialConditions",
    "OnnxSystem",
    "Recurrent",
    "States",
    "Synthetic",
    "System",
    "default_initial",
    "draw",
    "in_float64",
    "iterate",
    "load_system",
    "lorenz_contexts",
]
