"""Rounding whose errors the weights rounded later make up for. Matrices alone: no module, no rollout."""

from tqs_fast.compensation.compensate import compensate, output_error
from tqs_fast.compensation.elimination import Elimination, conditioned, eliminate
from tqs_fast.compensation.settings import METHODS, Compensation

__all__ = ["METHODS", "Compensation", "Elimination", "compensate", "conditioned", "eliminate", "output_error"]
