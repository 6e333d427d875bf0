"""Rewriting: plan -> packed module -> file. `activations`, which compares packed
modules, and `hessians`, which looks at what weights multiply, run rollouts."""

from tqs_fast.rewriting.activations import choose_activations
from tqs_fast.rewriting.attention import QuantMultiheadAttention
from tqs_fast.rewriting.cells import QuantGRUCell, QuantLSTMCell, QuantRNNCell
from tqs_fast.rewriting.convolution import QuantConv1d, QuantConv2d
from tqs_fast.rewriting.files import load, save
from tqs_fast.rewriting.linear import QuantEmbedding, QuantLinear
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.recurrent import QuantGRU, QuantLSTM, QuantRNN
from tqs_fast.rewriting.rewrite import quantize

__all__ = [
    "PackedTensor",
    "QuantConv1d",
    "QuantConv2d",
    "QuantEmbedding",
    "QuantGRU",
    "QuantGRUCell",
    "QuantLSTM",
    "QuantLSTMCell",
    "QuantLinear",
    "QuantModule",
    "QuantMultiheadAttention",
    "QuantRNN",
    "QuantRNNCell",
    "choose_activations",
    "load",
    "quantize",
    "save",
]
