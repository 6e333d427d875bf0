"""Which drop-in takes the place of which module, and the replacement itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from tqs_fast.quantization.weights import Weight, kind_of
from tqs_fast.rewriting.attention import QuantMultiheadAttention
from tqs_fast.rewriting.cells import QuantGRUCell, QuantLSTMCell, QuantRNNCell
from tqs_fast.rewriting.convolution import QuantConv1d, QuantConv2d
from tqs_fast.rewriting.linear import QuantEmbedding, QuantLinear
from tqs_fast.rewriting.observed import ObservedTensor
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.recurrent import QuantGRU, QuantLSTM, QuantRNN

DROP_INS: dict[str, Any] = {
    "Linear": QuantLinear,
    "Conv1d": QuantConv1d,
    "Conv2d": QuantConv2d,
    "Embedding": QuantEmbedding,
    "LSTM": QuantLSTM,
    "GRU": QuantGRU,
    "RNN": QuantRNN,
    "LSTMCell": QuantLSTMCell,
    "GRUCell": QuantGRUCell,
    "RNNCell": QuantRNNCell,
    "MultiheadAttention": QuantMultiheadAttention,
}


def replace_modules(
    module: nn.Module, weights: Iterable[Weight], packed: Mapping[str, PackedTensor] | Mapping[str, ObservedTensor]
) -> nn.Module:
    """`module` with the owners of these weights replaced, in place but for the root, which is returned."""
    attributes: dict[str, dict[str, PackedTensor | ObservedTensor]] = {}
    for weight in weights:
        for path, attribute in weight.owners:
            attributes.setdefault(path, {})[attribute] = packed[weight.name]
    drop_ins = {}
    for path, tensors in attributes.items():
        owner = module.get_submodule(path)
        drop_ins[id(owner)] = DROP_INS[kind_of(owner) or ""](owner, tensors)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if id(child) in drop_ins:
                parent._modules[name] = drop_ins[id(child)]
    root: nn.Module = drop_ins.get(id(module), module)
    _decline_fused_paths(root)
    return root


def _decline_fused_paths(module: nn.Module) -> None:
    """Keeps the transformer layers off the paths that read float weights around the drop-ins."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            if not any(isinstance(child, QuantModule) for child in part.modules()):
                continue
            if isinstance(part, nn.TransformerEncoderLayer):
                part.activation_relu_or_gelu = 0  # "an activation the fused kernel does not know"
            else:
                part.use_nested_tensor = False
