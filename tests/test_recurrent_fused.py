"""Recurrent layers and cells in one native call, against the composition of torch operations that it replaces."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.func import jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import tqs_fast as tqs
from packing import assert_within, block_plan, exact_and_bound, plan_for, twin
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import fused
from tqs_fast.rewriting.packed_block import PackedBlock

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.[a-z_]+. is deprecated:DeprecationWarning")
UNIT = 2.0**-24
ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["op"].startswith("gates_")})


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    kernels.use_isa(None)


class Calls:
    """Stands in for the native module: counts the calls, and may choose the threads."""

    def __init__(self) -> None:
        self.count, self.threads = 0, 0

    def run_recurrent(self, *arguments):
        self.count += 1
        return core.run_recurrent(*arguments[:-1], self.threads or arguments[-1])


@pytest.fixture
def calls(monkeypatch):
    counted = Calls()
    monkeypatch.setattr(fused, "core", counted)
    return counted


def composed(function, *arguments, **options):
    """`function` with the native call out of the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "advance", lambda *_, **__: None)
        return function(*arguments, **options)


def leaves(result):
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, torch.Tensor) else [leaf for part in result for leaf in leaves(part)]


def same_bits(left, right):
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(leaves(left), leaves(right), strict=True))


# ---------------------------------------------------------------- layers and cells against their composition


def layer(kind, *arguments, **options):
    torch.manual_seed(7)
    module = kind(*arguments, **options).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter.uniform_(-0.5, 0.5)
    return module


LAYERS = {
    "lstm": lambda: layer(nn.LSTM, 5, 40, batch_first=True),
    "lstm-layers": lambda: layer(nn.LSTM, 5, 9, 3),
    "lstm-projection": lambda: layer(nn.LSTM, 5, 36, 2, proj_size=4, bidirectional=True),
    "gru": lambda: layer(nn.GRU, 37, 17, batch_first=True, bias=False),
    "gru-bidirectional": lambda: layer(nn.GRU, 5, 9, 2, bidirectional=True),
    "rnn": lambda: layer(nn.RNN, 5, 33, 2, bidirectional=True),
    "rnn-relu": lambda: layer(nn.RNN, 5, 16, nonlinearity="relu"),
}
CELLS = {
    "lstm-cell": lambda: layer(nn.LSTMCell, 5, 40),
    "gru-cell": lambda: layer(nn.GRUCell, 33, 17),
    "rnn-cell": lambda: layer(nn.RNNCell, 5, 9, bias=False),
    "rnn-relu-cell": lambda: layer(nn.RNNCell, 5, 16, nonlinearity="relu"),
}
FORMATS = list(itertools.product((2, 3, 4, 8), (0, 32, 128), (True, False)))


def states(module, batch, generator):
    """A start state; its form is that of the module's argument hx."""
    if isinstance(module, nn.RNNCellBase):
        parts = [torch.randn(batch, module.hidden_size, generator=generator) for _ in range(2)]
        return tuple(parts) if isinstance(module, nn.LSTMCell) else parts[0]
    stack = module.num_layers * (2 if module.bidirectional else 1)
    hidden = torch.randn(stack, batch, module.proj_size or module.hidden_size, generator=generator)
    if not isinstance(module, nn.LSTM):
        return hidden
    return hidden, torch.randn(stack, batch, module.hidden_size, generator=generator)


def inputs(module, batch=4, steps=6):
    generator = torch.Generator().manual_seed(11)
    if isinstance(module, nn.RNNCellBase):
        x = torch.randn(batch, module.input_size, generator=generator)
    else:
        shape = (batch, steps) if module.batch_first else (steps, batch)
        x = torch.randn(*shape, module.input_size, generator=generator)
    return x, states(module, batch, generator)


def flat_outputs(module, arguments):
    """As one float64 vector; `arguments` is x and the parts of hx."""
    x, *state = arguments
    hx = tuple(state) if len(state) > 1 else state[0]
    with torch.no_grad():
        return torch.cat([leaf.reshape(-1).double() for leaf in leaves(module(x, hx))])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_both_ways_are_within_rounding_of_the_exact_result(name, calls):
    row = [*LAYERS, *CELLS].index(name)
    for pick, isa in enumerate(ISAS):
        kernels.use_isa(isa)
        module = (LAYERS | CELLS)[name]()
        for step in range(3):  # every format meets some module
            bits, group_size, symmetric = FORMATS[(7 * row + 11 * pick + 5 * step) % len(FORMATS)]
            plan = plan_for(module, [bits, 4, 8, 3], tqs.Quantizer(group_size, symmetric))
            small, reference = tqs.quantize(module, plan), twin(module, plan)
            x, hx = inputs(module)
            arguments = (x, *leaves(hx))
            exact, bound = exact_and_bound(flat_outputs, reference, arguments, UNIT)
            before = calls.count
            assert_within(flat_outputs(small, arguments), exact, bound)
            assert calls.count > before
            assert_within(composed(flat_outputs, small, arguments), exact, bound)
            assert bound < 1e-3 * float(exact.abs().max())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_row_blocks_at_several_bits(name, symmetric, calls):
    module = (LAYERS | CELLS)[name]()
    small = tqs.quantize(module, block_plan(module, 3, tqs.Quantizer(group_size=32, symmetric=symmetric)))
    x, hx = inputs(module)
    with torch.no_grad():
        got, expected = small(x, hx), composed(small, x, hx)
    assert calls.count > 0
    for ours, theirs in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=256 * UNIT)


@pytest.mark.parametrize("name", CELLS)
def test_int8_activations_of_some_row_blocks(name, calls):
    """One step: after it, states that differ by rounding may be rounded to other integers."""
    module = CELLS[name]()
    small = tqs.quantize(module, block_plan(module, 3))
    x, hx = inputs(module)
    with torch.no_grad():
        exact = small(x, hx)
        for block in [part for part in small.modules() if isinstance(part, PackedBlock)][::2]:
            block.activation = "int8"
        got, expected = small(x, hx), composed(small, x, hx)
    assert calls.count == 2
    assert not torch.allclose(leaves(got)[0], leaves(exact)[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(leaves(got), leaves(expected), rtol=0, atol=256 * UNIT)


SHAPES = {
    "unbatched": lambda: (LAYERS["lstm-layers"](), (6, 5)),
    "unbatched-batch-first": lambda: (LAYERS["lstm"](), (6, 5)),
    "batch-first": lambda: (LAYERS["gru"](), (3, 6, 37)),
    "time-major": lambda: (LAYERS["rnn"](), (6, 3, 5)),
    "one-step": lambda: (LAYERS["gru-bidirectional"](), (1, 3, 5)),
    "unbatched-cell": lambda: (CELLS["lstm-cell"](), (5,)),
    "no-samples-cell": lambda: (CELLS["gru-cell"](), (0, 33)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_strides_are_those_of_the_composition(name, calls):
    module, shape = SHAPES[name]()
    small = tqs.quantize(module, plan_for(module, [4]))
    with torch.no_grad():
        wide = torch.randn(*shape[:-1], 2 * shape[-1])
        for x in (torch.randn(shape), wide[..., ::2], wide[..., : shape[-1]]):
            got, expected = small(x), composed(small, x)
            for ours, theirs in zip(leaves(got), leaves(expected), strict=True):
                assert (ours.shape, ours.stride()) == (theirs.shape, theirs.stride())
                torch.testing.assert_close(ours, theirs, rtol=0, atol=256 * UNIT)
    assert calls.count > 0


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("name", ["lstm-layers", "lstm-projection", "gru-bidirectional", "rnn"])
def test_packed_sequences_equal_their_samples_alone(name, given_state, enforce_sorted, calls):
    """Bit for bit, and close to the composition."""
    module = LAYERS[name]()
    small = tqs.quantize(module, plan_for(module, [4, 3, 8]))
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4]
    padded, hx = inputs(module)
    hx = hx if given_state else None
    x = pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    with torch.no_grad():
        got = small(x, hx)
        for ours, theirs in zip(leaves(got), leaves(composed(small, x, hx)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=256 * UNIT)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(got[0])
        for sample, length in enumerate(lengths):
            own = None if hx is None else [part[:, sample : sample + 1] for part in leaves(hx)]
            own = own[0] if own and len(own) == 1 else own
            y, final = small(padded[:length, sample : sample + 1], own)
            assert torch.equal(outputs[:length, sample : sample + 1], y)
            assert same_bits([part[:, sample : sample + 1] for part in leaves(got[1])], final)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_the_same_bits_for_any_threads_and_for_samples_alone(name, isa, calls):
    kernels.use_isa(isa)
    module = (LAYERS | CELLS)[name]()
    small = tqs.quantize(module, plan_for(module, [4, 8, 2]))
    x, hx = inputs(module, batch=37, steps=5)
    axis = 0 if getattr(module, "batch_first", True) else 1
    state_axis = 0 if name in CELLS else 1
    with torch.no_grad():
        calls.threads = 1
        whole = small(x, hx)
        for calls.threads in (2, 3, 16):
            assert same_bits(small(x, hx), whole)
        for sample in (0, 17, 36):
            own = [part.narrow(state_axis, sample, 1) for part in leaves(hx)]
            alone = small(x.narrow(axis, sample, 1), own if len(own) > 1 else own[0])
            if name in CELLS:
                assert same_bits([part[sample : sample + 1] for part in leaves(whole)], alone)
            else:
                assert torch.equal(whole[0].narrow(axis, sample, 1), alone[0])
                assert same_bits([part[:, sample : sample + 1] for part in leaves(whole[1])], alone[1])


def test_samples_shared_among_threads(calls):
    """Large enough that threads take samples, with lengths that end and begin in the middle of a thread's."""
    module = layer(nn.LSTM, 16, 64, bidirectional=True)
    small = tqs.quantize(module, plan_for(module, [4]))
    lengths = torch.arange(40, 0, -1) // 4 + 2
    x = pack_padded_sequence(torch.randn(int(lengths[0]), 40, 16), lengths)
    with torch.no_grad():
        calls.threads = 1
        whole = small(x)
        for calls.threads in (2, 3, 5, 16):
            assert same_bits(small(x), whole)


def test_nan_and_infinity_stay_in_their_sample(calls):
    module = LAYERS["lstm-layers"]()
    small = tqs.quantize(module, plan_for(module, [4]))
    x, hx = inputs(module)
    with torch.no_grad():
        clean, _ = small(x, hx)
        x[2, 1, 0], x[0, 3, 2] = float("nan"), float("inf")
        got, _ = small(x, hx)
    assert torch.equal(got[:, [0, 2]], clean[:, [0, 2]])
    assert torch.equal(got[:2, 1], clean[:2, 1])
    assert got[2:, 1].isnan().all()


def test_arguments_are_left_alone_and_results_are_new(calls):
    for name in ("lstm", "gru", "lstm-cell", "gru-cell"):
        module = (LAYERS | CELLS)[name]()
        small = tqs.quantize(module, plan_for(module, [4]))
        x, hx = inputs(module)
        before = [part.clone() for part in leaves((x, hx))]
        with torch.no_grad():
            first, second = small(x, hx), small(x, hx)  # the first prepacks
        assert same_bits(before, (x, hx))
        assert same_bits(first, second)
        own = {part.data_ptr() for part in leaves((x, hx))}
        assert not own & {part.data_ptr() for part in leaves(first)}
    assert calls.count == 8


def test_loaded_modules_take_the_native_call(calls, tmp_path):
    module = LAYERS["gru"]()
    small = tqs.quantize(module, plan_for(module, [4]))
    tqs.save(small, tmp_path / "model")
    x, hx = inputs(module)
    with torch.no_grad():
        assert same_bits(tqs.load(module, tmp_path / "model")(x, hx), small(x, hx))
    assert calls.count == 2


def test_changed_weights_and_another_isa_are_noticed(calls):
    module = LAYERS["gru"]()
    small = tqs.quantize(module, plan_for(module, [4]))
    x, hx = inputs(module)
    with torch.no_grad():
        before = small(x, hx)
        for block in (part for part in small.modules() if isinstance(part, PackedBlock)):
            block.scales.add_(64)  # of bfloat16 bits: larger
        after = small(x, hx)
        assert not torch.allclose(before[0], after[0])
        kernels.use_isa("scalar")
        torch.testing.assert_close(small(x, hx), after, rtol=0, atol=256 * UNIT)
        torch.testing.assert_close(composed(small, x, hx), after, rtol=0, atol=256 * UNIT)
        for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
            assert same_bits(other(x, hx), small(x, hx))
    assert calls.count == 7


def test_weights_that_stay_float(calls):
    """W_ih may be float; where W_hh is, the composition computes."""
    module = layer(nn.LSTM, 5, 9, 2)
    x, hx = inputs(module)
    for bits, count in (([None, 4], 2), ([4, None], 0), ([None, 4, 4, None], 1)):
        small = tqs.quantize(module, plan_for(module, bits))
        calls.count = 0
        with torch.no_grad():
            torch.testing.assert_close(small(x, hx), composed(small, x, hx), rtol=0, atol=256 * UNIT)
        assert calls.count == count


def test_autocast_of_a_float_input_weight(calls):
    module = layer(nn.GRU, 5, 9)
    small = tqs.quantize(module, plan_for(module, [None, 4]))
    x, hx = inputs(module)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got, expected = small(x, hx), composed(small, x, hx)
    torch.testing.assert_close(got, expected)
    assert calls.count == 0


@pytest.mark.parametrize("name", CELLS)
def test_rows_that_share_memory(name, calls):
    module = CELLS[name]()
    small = tqs.quantize(module, plan_for(module, [4]))
    x, hx = inputs(module, batch=1)
    x, hx = x.expand(3, -1), tuple(part.expand(3, -1) for part in leaves(hx))
    hx = hx if len(hx) > 1 else hx[0]
    with torch.no_grad():
        torch.testing.assert_close(leaves(small(x, hx)), leaves(composed(small, x, hx)), rtol=0, atol=256 * UNIT)
    assert calls.count == 1


def test_dropout_between_layers_draws_the_same_numbers(calls):
    module = layer(nn.GRU, 5, 9, 2, dropout=0.5).train()
    small = tqs.quantize(module, plan_for(module, [8])).train()
    x, hx = inputs(module)
    results = []
    for run in (small, lambda *given: composed(small, *given)):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(run(x, hx))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=256 * UNIT)


# ---------------------------------------------------------------- where the composition stays


class Tagged(torch.Tensor):
    """A subclass that only knows its name."""


def packed_cell():
    module = CELLS["gru-cell"]()
    small = tqs.quantize(module, plan_for(module, [4]))
    return small.requires_grad_(False), *inputs(module)


def test_inference_takes_the_native_call(calls):
    small, x, h = packed_cell()
    small(x, h)  # nothing here wants a gradient
    with torch.no_grad():
        small(x.clone().requires_grad_(), h)
    with torch.inference_mode():
        small(x + 0, h + 0)
        small(x, h)
    assert calls.count == 4


def test_derivatives_compose(calls):
    small, x, h = packed_cell()
    exact = composed(small, x, h)
    for argument in (x, h):
        leaf = argument.clone().requires_grad_()
        y = small(*(leaf if part is argument else part for part in (x, h)))
        assert y.requires_grad
        assert torch.equal(y, exact)
    small.requires_grad_(True)
    assert small(x, h).requires_grad  # of the biases
    small.requires_grad_(False)

    value, _ = jvp(lambda x: small(x, h), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(value, exact)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        small(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), h)
    assert calls.count == 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_transforms_and_traces_compose(calls):
    small, x, h = packed_cell()
    with torch.no_grad():
        exact = composed(small, x, h)
        mapped = vmap(lambda x, h: small(x, h))(x, h)
        torch.testing.assert_close(mapped, exact)
        for trace in (
            make_fx(small)(x, h),
            torch.export.export(small, (x, h)).module(),
            torch.jit.trace(small, (x, h), check_trace=False),  # the check calls the module itself
        ):
            torch.testing.assert_close(trace(x + 1, h), composed(small, x + 1, h))
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert small(mode.from_tensor(x), mode.from_tensor(h)).shape == h.shape
        compiled = torch.compile(small, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, h), exact)
    assert calls.count == 0


def test_other_tensors_compose(calls):
    small, x, h = packed_cell()
    with torch.no_grad():
        exact = composed(small, x, h)
        negated = torch.complex(torch.zeros_like(x), -x).conj().imag
        assert negated.is_neg()
        torch.testing.assert_close(small(negated, h), exact)
        torch.testing.assert_close(small(x.as_subclass(Tagged), h).as_subclass(torch.Tensor), exact)
        torch.testing.assert_close(small(x.double(), h.double()).float(), exact)
        assert small.bfloat16()(x.bfloat16(), h.bfloat16()).dtype == torch.bfloat16
    assert calls.count == 0


def test_a_packed_sequence_that_contradicts_itself_is_refused():
    module = LAYERS["lstm-layers"]()
    small = tqs.quantize(module, plan_for(module, [4]))
    with torch.no_grad(), pytest.raises(RuntimeError, match="split"):
        small(PackedSequence(torch.randn(7, 5), torch.tensor([4, 2])))
    with torch.no_grad(), pytest.raises(ArgumentError, match="sizes that never grow"):
        small(PackedSequence(torch.randn(7, 5), torch.tensor([3, 4])))
