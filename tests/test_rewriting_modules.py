"""Every drop-in computes what its float module computes with the dequantized weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import tqs_fast as tqs
from cases.modules import CASES
from packing import assert_within, cast, exact_and_bound, input_gradients, outputs, plan_for, twin
from tqs_fast.rewriting import PackedTensor, QuantModule, convolution
from tqs_fast.rewriting.packed_block import PackedBlock

FLOAT32, BFLOAT16 = 2.0**-24, 2.0**-8
FORMATS = list(itertools.product((2, 3, 4, 8), (0, 32, 128), (True, False)))
# Every module kind takes three of the 24 formats, chosen so that every format meets every family of kinds.
SAMPLE = [
    (case, FORMATS[(7 * row + 11 * pick) % len(FORMATS)]) for row, case in enumerate(CASES) for pick in range(3)
] + [(CASES[0], chosen) for chosen in FORMATS]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are tiny: waking a second thread costs more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rewritten(case, chosen, start=0):
    bits, group_size, symmetric = chosen
    module = case.make_module()
    menu = [2, 3, 4, 8]
    first = menu.index(bits)
    plan = plan_for(module, menu[first:] + menu[:first], tqs.Quantizer(group_size, symmetric))
    return twin(module, plan), tqs.quantize(module, plan)


@pytest.mark.parametrize(("case", "chosen"), SAMPLE, ids=str)
def test_equals_the_dequantized_twin(case, chosen):
    reference, small = rewritten(case, chosen)
    inputs = case.make_input(3)
    exact, bound = exact_and_bound(outputs, reference, inputs, FLOAT32)
    assert_within(outputs(small, inputs), exact, bound)
    assert bound < 1e-3 * float(exact.abs().max())  # else the bound would let real faults through


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_and_layout_are_those_of_the_float_module(case):
    reference, small = rewritten(case, (4, 32, True))
    theirs, ours = reference(*case.make_input(2)), small(*case.make_input(2))
    pairs = [(theirs, ours)] if isinstance(theirs, torch.Tensor) else zip(theirs, ours, strict=True)
    for expected, actual in pairs:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        assert actual.is_contiguous() or not expected.is_contiguous()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bfloat16(case):
    reference, small = rewritten(case, (4, 32, False))
    inputs = case.make_input(3)
    codes = {name: tensor.clone() for name, tensor in small.named_buffers() if not name.endswith("anchor")}
    small = small.to(torch.bfloat16)
    for name, tensor in small.named_buffers():
        assert name.endswith("anchor") or torch.equal(tensor, codes[name])
    exact, bound = exact_and_bound(outputs, reference, inputs, BFLOAT16)
    assert_within(outputs(small, cast(inputs, torch.bfloat16)), exact, bound)


@pytest.mark.parametrize("case", [case for case in CASES if case.make_input(1)[0].is_floating_point()], ids=str)
def test_input_gradients_equal_those_of_the_twin(case):
    reference, small = rewritten(case, (3, 32, True))
    inputs = case.make_input(3)
    exact, bound = exact_and_bound(input_gradients, reference, inputs, FLOAT32)
    assert_within(input_gradients(small, inputs), exact, bound)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_flipped_code_is_seen(case):
    """The planted fault that the bound must catch: the top bit of one code, where it tells most (units may be dead)."""
    reference, small = rewritten(case, (4, 32, True))
    inputs = case.make_input(3)
    exact, bound = exact_and_bound(outputs, reference, inputs, FLOAT32)
    for tensor in (part for part in small.modules() if isinstance(part, PackedBlock)):
        effects = []
        for row, byte in itertools.product(*map(range, tensor.codes[:4, :2].shape)):
            tensor.codes[row, byte] ^= 1 << (tensor.bits - 1)
            effects.append(float((outputs(small, inputs) - exact).abs().max()))
            tensor.codes[row, byte] ^= 1 << (tensor.bits - 1)
        assert max(effects) > bound


def test_a_plan_may_leave_some_weights_of_a_module_float():
    module = nn.LSTM(5, 9, 2, batch_first=True)
    plan = plan_for(module, [8, None, None, 3])
    small, reference = tqs.quantize(module, plan), twin(module, plan)
    assert small.packed_names == ("weight_ih_l0", "weight_hh_l1")
    assert isinstance(small.weight_hh_l0, nn.Parameter)
    x = torch.randn(2, 6, 5)
    exact, bound = exact_and_bound(lambda m, i: outputs_of_lstm(m, *i), reference, (x,), FLOAT32)
    assert_within(outputs_of_lstm(small, x), exact, bound)


def outputs_of_lstm(module, x):
    with torch.no_grad():
        y, (h, c) = module(x)
    return torch.cat([part.reshape(-1).double() for part in (y, h, c)])


UNBATCHED = [
    (lambda: nn.Linear(33, 5), (33,)),
    (lambda: nn.Conv1d(12, 4, 3, padding=1), (12, 9)),
    (lambda: nn.Conv2d(5, 4, 3, padding="same"), (5, 6, 7)),
    (lambda: nn.LSTM(5, 9, 2, batch_first=True, bidirectional=True), (6, 5)),
    (lambda: nn.GRU(5, 9), (6, 5)),
    (lambda: nn.RNN(5, 9), (6, 5)),
    (lambda: nn.LSTMCell(5, 9), (5,)),
    (lambda: nn.GRUCell(5, 9), (5,)),
    (lambda: nn.RNNCell(5, 9), (5,)),
]


@pytest.mark.parametrize(("make", "shape"), UNBATCHED, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_one_sample_without_a_batch_dimension(make, shape):
    torch.manual_seed(0)
    module = make()
    plan = plan_for(module, [4, 8])
    x = torch.randn(shape)
    theirs, ours = leaves(twin(module, plan)(x)), leaves(tqs.quantize(module, plan)(x))
    assert [part.shape for part in theirs] == [part.shape for part in ours]
    for expected, actual in zip(theirs, ours, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=64 * FLOAT32 * 4)  # |values| < 4, K <= 64


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else [leaf for part in result for leaf in leaves(part)]


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("given_state", [False, True])
def test_packed_sequences(kind, enforce_sorted, given_state):
    torch.manual_seed(0)
    module = kind(5, 9, 2, bidirectional=True)
    plan = plan_for(module, [4])
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4]
    x = pack_padded_sequence(torch.randn(6, 4, 5), torch.tensor(lengths), enforce_sorted=enforce_sorted)
    state = torch.randn(4, 4, 9)
    hx = None if not given_state else (state, state.flip(0)) if kind is nn.LSTM else state
    theirs, ours = twin(module, plan)(x, hx), tqs.quantize(module, plan)(x, hx)
    torch.testing.assert_close(pad_packed_sequence(ours[0]), pad_packed_sequence(theirs[0]), rtol=0, atol=256 * FLOAT32)
    torch.testing.assert_close(leaves(ours[1]), leaves(theirs[1]), rtol=0, atol=256 * FLOAT32)


def test_a_packed_sequence_of_one_length():
    torch.manual_seed(0)
    module = nn.GRU(5, 9)
    plan = plan_for(module, [4])
    x = pack_sequence([torch.randn(3, 5), torch.randn(3, 5)])
    theirs, ours = twin(module, plan)(x), tqs.quantize(module, plan)(x)
    torch.testing.assert_close(ours[0].data, theirs[0].data, rtol=0, atol=256 * FLOAT32)


MASKS = {
    "bool-2d": {"attn_mask": torch.ones(6, 6, dtype=torch.bool).triu(1)},
    "float-3d": {"attn_mask": torch.randn(12, 6, 6, generator=torch.Generator().manual_seed(0))},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5 + [True], [False] * 6])},
    "float-padding": {"key_padding_mask": torch.randn(2, 6), "attn_mask": torch.zeros(6, 6)},
    "per-head": {"average_attn_weights": False},
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_attention_masks(name, need_weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, 6, batch_first=True).eval()
    plan = plan_for(module, [4, 8])
    x = torch.randn(2, 6, 24)
    options = MASKS[name] | {"need_weights": need_weights}
    with torch.no_grad():
        theirs, ours = twin(module, plan)(x, x, x, **options), tqs.quantize(module, plan)(x, x, x, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=256 * FLOAT32)


def test_attention_without_a_batch_dimension():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, 6, batch_first=True)
    plan = plan_for(module, [8])
    x, y = torch.randn(5, 24), torch.randn(7, 24)
    options = {"key_padding_mask": torch.tensor([False] * 6 + [True]), "average_attn_weights": False}
    theirs, ours = twin(module, plan)(x, y, y, **options), tqs.quantize(module, plan)(x, y, y, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=256 * FLOAT32)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the float twin
@pytest.mark.parametrize("bits", [[4], [None, None, 4, 4], [4, 4, None, None]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_encoders_in_evaluation_take_the_packed_path(bits, padded, monkeypatch):
    """The fused path of torch reads whole float weights; it must decline for any mix of packed and float children."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, dim_feedforward=40, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    plan = plan_for(module, bits)
    x = torch.randn(2, 6, 24)
    mask = torch.tensor([[False] * 6, [False] * 4 + [True] * 2]) if padded else None
    with torch.no_grad():
        expected = twin(module, plan)(x, src_key_padding_mask=mask)
        small = tqs.quantize(module, plan)
        monkeypatch.setattr(PackedTensor, "dequantized", forbidden)
        actual = small(x, src_key_padding_mask=mask)
    valid = slice(None) if mask is None else ~mask
    torch.testing.assert_close(actual[valid], expected[valid], rtol=0, atol=1024 * FLOAT32)


def forbidden(self):
    raise AssertionError("a whole weight was dequantized")


@pytest.mark.parametrize(
    "name", ["Linear", "Conv1d", "Conv2d-groups", "Embedding", "LSTM", "GRUCell", "TransformerEncoder"]
)
def test_no_whole_weight_is_dequantized(name, monkeypatch):
    case = next(case for case in CASES if case.name == name)
    _, small = rewritten(case, (4, 32, True))
    monkeypatch.setattr(PackedTensor, "dequantized", forbidden)
    outputs(small, case.make_input(2))


def test_convolution_chunks_over_the_batch(monkeypatch):
    case = next(case for case in CASES if case.name == "Conv2d-same")
    _, small = rewritten(case, (4, 32, True))
    x = case.make_input(7)
    whole, seen = outputs(small, x), []
    chunk = type(small)._chunk
    monkeypatch.setattr(convolution, "PATCH_LIMIT", 2 * (7 * 8) * (5 * 3 * 5))  # patches of two samples
    monkeypatch.setattr(type(small), "_chunk", lambda self, part: seen.append(len(part)) or chunk(self, part))
    assert torch.equal(outputs(small, x), whole)
    assert seen == [2, 2, 2, 1]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # of the float twin
@pytest.mark.parametrize("channels", [4, 12])
def test_same_padding_of_an_even_kernel_is_longer_on_the_right(channels):
    torch.manual_seed(0)
    module = nn.Conv1d(channels, 3, 4, padding="same")
    plan = plan_for(module, [8])
    x = torch.randn(2, channels, 9)
    torch.testing.assert_close(tqs.quantize(module, plan)(x), twin(module, plan)(x), rtol=0, atol=64 * FLOAT32 * 4)


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "Conv1d-depthwise", "Embedding", "GRUCell"])
def test_an_empty_batch(name):
    case = next(case for case in CASES if case.name == name)
    reference, small = rewritten(case, (4, 32, True))
    inputs = tuple(part[:0] for part in case.make_input(2))
    assert small(*inputs).shape == reference(*inputs).shape


def test_dropout_between_layers_only_when_training():
    module = nn.LSTM(5, 9, 2, dropout=0.5, batch_first=True)
    small = tqs.quantize(module, plan_for(module, [8]))
    x = torch.randn(2, 6, 5)
    assert not torch.equal(small(x)[0], small(x)[0])
    small.eval()
    assert torch.equal(small(x)[0], small(x)[0])


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: nn.Linear(4, 3), (2, 5), r"\[qgemm\] expected x of shape \[\.\.\., 4\]"),
        (lambda: nn.Conv1d(12, 4, 3), (2, 11, 9), r"\[QuantConv1d\] expected input \[12, L\]"),
        (lambda: nn.Conv1d(12, 4, 3), (2, 12, 2), r"smaller than the kernel"),
        (lambda: nn.LSTM(5, 9), (3, 2, 4), r"\[QuantLSTM\] expected input"),
        (lambda: nn.LSTM(5, 9), (0, 2, 5), r"at least one time step"),
        (lambda: nn.GRUCell(5, 9), (2, 4), r"\[QuantGRUCell\] expected input"),
    ],
)
def test_wrong_inputs_are_named(make, shape, message):
    module = make()
    with pytest.raises(tqs.ArgumentError, match=message):
        tqs.quantize(module, plan_for(module, [4]))(torch.zeros(shape))


def test_wrong_states_and_masks_are_named():
    lstm, attention = nn.LSTM(5, 9), nn.MultiheadAttention(8, 2)
    small = tqs.quantize(lstm, plan_for(lstm, [4]))
    with pytest.raises(tqs.ArgumentError, match=r"expected hx of shape \[1, 2, 9\]"):
        small(torch.zeros(3, 2, 5), (torch.zeros(1, 1, 9), torch.zeros(1, 2, 9)))
    small, x = tqs.quantize(attention, plan_for(attention, [4])), torch.zeros(3, 2, 8)
    with pytest.raises(tqs.ArgumentError, match="expected attn_mask of shape"):
        small(x, x, x, attn_mask=torch.zeros(3, 2))
    with pytest.raises(tqs.ArgumentError, match="expected key_padding_mask of shape"):
        small(x, x, x, key_padding_mask=torch.zeros(3, 2))
    with pytest.raises(tqs.ArgumentError, match="is_causal is a hint"):
        small(x, x, x, is_causal=True)


def test_hooks_and_mode_move_along():
    module = nn.Sequential(nn.Linear(3, 4)).train()
    calls = []
    module[0].register_forward_hook(lambda *_: calls.append("after"))
    module[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    small = tqs.quantize(module, plan_for(module, [4]))
    assert isinstance(small[0], QuantModule)
    assert small[0].training
    small(torch.zeros(1, 3))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "Embedding-tied", "LSTM", "TransformerEncoder"])
def test_compile_traces_the_whole_graph(name):
    case = next(case for case in CASES if case.name == name)
    _, small = rewritten(case, (4, 32, True))
    inputs = case.make_input(3)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(small), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outputs(compiled, inputs), outputs(small, inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "Embedding-tied", "GRU", "TransformerEncoder"])
def test_export_with_a_dynamic_batch(name):
    case = next(case for case in CASES if case.name == name)
    _, small = rewritten(case, (4, 32, True))
    batch = torch.export.Dim("batch", min=2, max=64)
    inputs = case.make_input(3)
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(small, inputs, dynamic_shapes=shapes)
    other = case.make_input(5)
    torch.testing.assert_close(outputs(program.module(), other), outputs(small, other), rtol=0, atol=1e-6)
