"""Scores: the sensitivity of every layer, and the measured damage of a changed module."""

from tqs_fast.scoring.adjoint import Adjoint
from tqs_fast.scoring.evaluate import RolloutError, evaluate
from tqs_fast.scoring.methods import Noise, Residual, Tangent
from tqs_fast.scoring.score import score
from tqs_fast.scoring.sensitivity import Layer, Sensitivity

__all__ = ["Adjoint", "Layer", "Noise", "Residual", "RolloutError", "Sensitivity", "Tangent", "evaluate", "score"]
