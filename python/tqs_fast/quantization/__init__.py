"""Quantizers: how a weight is rounded."""

from tqs_fast.quantization.quantizer import BITS, Quantizer

__all__ = ["BITS", "Quantizer"]
