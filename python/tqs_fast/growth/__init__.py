"""Growth of infinitesimal errors in the state: Lyapunov exponents and finite-time singular values."""

from tqs_fast.growth.growth_rates import growth_rates
from tqs_fast.growth.rates import GrowthRates, Outcome

__all__ = ["GrowthRates", "Outcome", "growth_rates"]
