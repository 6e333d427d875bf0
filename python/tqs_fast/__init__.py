"""tqs-fast: bits for autoregressive models, chosen by how errors in the weights travel along rollouts."""

from tqs_fast import kernels, ops
from tqs_fast._version import __version__
from tqs_fast.allocation import Plan, allocate, frontier
from tqs_fast.compensation import Compensation
from tqs_fast.engines import Rollout, rollout
from tqs_fast.errors import (
    ArgumentError,
    CaptureError,
    CheckpointError,
    DivergenceError,
    EngineError,
    FileFormatError,
    InfeasibleError,
    OutOfMemoryError,
    TqsError,
)
from tqs_fast.growth import GrowthRates, Outcome, growth_rates
from tqs_fast.onnx import OnnxModule
from tqs_fast.quantization import Quantizer
from tqs_fast.recovery import BasinDiagnosis, Recovery, diagnose_basin, recover
from tqs_fast.reporting import Report
from tqs_fast.rewriting import choose_activations, load, quantize, save
from tqs_fast.scoring import Adjoint, Layer, Noise, Residual, RolloutError, Sensitivity, Tangent, evaluate, score
from tqs_fast.scoring.rivals import GradientChange, HessianTrace, OutputDivergence, WeightError
from tqs_fast.search import SearchResult, search
from tqs_fast.systems import (
    Attractor,
    BlackBox,
    Contexts,
    Forecaster,
    OnnxSystem,
    Recurrent,
    Synthetic,
    System,
    in_float64,
    load_system,
)

__all__ = [
    "Adjoint",
    "ArgumentError",
    "Attractor",
    "BasinDiagnosis",
    "BlackBox",
    "CaptureError",
    "CheckpointError",
    "Compensation",
    "Contexts",
    "DivergenceError",
    "EngineError",
    "FileFormatError",
    "Forecaster",
    "GradientChange",
    "GrowthRates",
    "HessianTrace",
    "InfeasibleError",
    "Layer",
    "Noise",
    "OnnxModule",
    "OnnxSystem",
    "OutOfMemoryError",
    "Outcome",
    "OutputDivergence",
    "Plan",
    "Quantizer",
    "Recovery",
    "Recurrent",
    "Report",
    "Residual",
    "Rollout",
    "RolloutError",
    "SearchResult",
    "Sensitivity",
    "Synthetic",
    "System",
    "Tangent",
    "TqsError",
    "WeightError",
    "__version__",
    "allocate",
    "choose_activations",
    "diagnose_basin",
    "evaluate",
    "frontier",
    "growth_rates",
    "in_float64",
    "kernels",
    "load",
    "load_system",
    "ops",
    "quantize",
    "recover",
    "rollout",
    "save",
    "score",
    "search",
]
