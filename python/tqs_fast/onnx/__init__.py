"""Frozen ONNX models as modules whose weights can be reached.

The folder reads files (`read`), finds the weights in their graphs (`constants`, `slots`), turns weights into inputs
(`lift`), runs the result (`session`) and shows it to the rest as a torch module (`module`). It knows nothing of
systems, scores or plans.
"""

from tqs_fast.onnx.module import OnnxModule

__all__ = ["OnnxModule"]
