"""Rivals: what others rank layers by, with the same quantizers, sizes and allocators as our own scores.

None of them rolls anything out. Their numbers fill the damage columns of a table, in whatever unit they have; a plan
depends on the numbers of one table only up to a factor. `provenance["method"]["meaning"]` says what each is.
"""

from tqs_fast.scoring.rivals.gradient_change import GradientChange
from tqs_fast.scoring.rivals.hessian_trace import HessianTrace
from tqs_fast.scoring.rivals.output_divergence import OutputDivergence
from tqs_fast.scoring.rivals.weight_error import WeightError

__all__ = ["GradientChange", "HessianTrace", "OutputDivergence", "WeightError"]
