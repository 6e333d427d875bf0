"""Search: a table and a plan in, a plan of less measured damage and no more bytes out.

space (which plans there are) -> propose and model (which to try next) -> measure (roll them out) -> decide (on other
initial conditions) -> result. `search` drives them.
"""

from tqs_fast.search.result import Candidate, Evaluation, SearchResult
from tqs_fast.search.search import search

__all__ = ["Candidate", "Evaluation", "SearchResult", "search"]
