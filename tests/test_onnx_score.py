"""Scoring programs outside torch: ONNX models and black boxes, against torch with the same weights."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import tqs_fast as tqs
from onnx_models import map_model, recurrent_model, weight, written
from tqs_fast.errors import ArgumentError, EngineError
from tqs_fast.onnx import OnnxModule
from tqs_fast.systems.silero_vad import original_path
from tqs_fast.systems.speech import speech_like

START = tqs.Attractor(count=4)
DAMAGES = 2e-3  # relative: rounding of float32 sums in another order, over a short rollout that does not amplify


@pytest.fixture
def mapped(tmp_path: Path) -> tqs.OnnxSystem:
    system = tqs.load_system(str(written(map_model(), tmp_path)))
    assert isinstance(system, tqs.OnnxSystem)
    return system


class Map(torch.nn.Module):
    """`map_model` in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.A, self.B = torch.nn.Linear(24, 48), torch.nn.Linear(48, 24)
        pairs = ((self.A, weight(24, 48).T, weight(48)), (self.B, weight(24, 48, seed=1), weight(24, seed=2)))
        for layer, values, bias in pairs:
            layer.weight.data = torch.from_numpy(values).contiguous()
            layer.bias.data = torch.from_numpy(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * self.B(torch.tanh(self.A(x))))


def states(count: int = 6) -> torch.Tensor:
    return torch.from_numpy(weight(count, 24, seed=3))


@pytest.mark.parametrize("method", [tqs.Residual(), tqs.Noise(probes=3)])
@pytest.mark.parametrize("row_blocks", [1, 3])
def test_a_map_scores_as_the_same_map_in_torch(mapped: tqs.OnnxSystem, method: object, row_blocks: int) -> None:
    def step(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = module(x)
        return y, y

    twin = tqs.System(Map(), step=step, initial_state=lambda n, g: torch.randn(n, 24, generator=g))
    if isinstance(method, tqs.Noise):
        method = tqs.Noise(probes=40)  # the streams are keyed by names, which differ: compared as averages
    options = {"method": method, "horizon": 3, "row_blocks": row_blocks}
    found = tqs.score(mapped, engine="swapped", initial=tqs.Contexts({"x": states()}), **options)
    expected = tqs.score(twin, initial=tqs.Contexts(states()), engine="torch", **options)
    assert found.provenance["engine"]["name"] == "swapped"
    assert [layer.shape for layer in found.layers] == [layer.shape for layer in expected.layers]
    np.testing.assert_allclose(found.relative_error, expected.relative_error, rtol=1e-6)
    tolerance = DAMAGES if isinstance(method, tqs.Residual) else 0.5
    np.testing.assert_allclose(found.samples.mean(axis=2), expected.samples.mean(axis=2), rtol=tolerance)


@pytest.mark.skipif(find_spec("silero_vad") is None, reason="needs silero-vad")
@pytest.mark.parametrize("engine", ["swapped", "native"])
def test_silero_scores_as_its_torch_rebuild(engine: str) -> None:
    """The same network twice: the vendor's file by either engine, torch on the vendor's state dict."""
    system = tqs.load_system(str(original_path().with_name("silero_vad_16k_sequence.onnx")))
    assert system.state_map == {"hn": "h", "cn": "c"}
    count, steps = 3, 24
    audio = speech_like(count, steps * 512, torch.Generator().manual_seed(5))
    chunks = audio.reshape(count, steps, 512)
    before = torch.cat([torch.zeros(count, 1, 64), chunks[:, :-1, -64:]], dim=1)
    given = tqs.Contexts(
        {"h": torch.zeros(count, 1, 1, 128), "c": torch.zeros(count, 1, 1, 128)},
        {"input": torch.cat([before, chunks], dim=2).unsqueeze(2)},
    )
    torch_given = tqs.Contexts(
        {"context": torch.zeros(count, 64), "hidden": torch.zeros(count, 128), "cell": torch.zeros(count, 128)}, chunks
    )
    twin = tqs.load_system("silero-vad")
    options = {"horizon": steps}
    layers = ["encoder.*", "output.*", "onnx::LSTM*"]
    found = tqs.score(system, engine=engine, initial=given, layers=layers, **options)
    assert found.provenance["engine"]["name"] == engine
    expected = tqs.score(twin, engine="torch", initial=torch_given, **options)
    names = {"onnx::LSTM_209": "rnn.weight_ih", "onnx::LSTM_210": "rnn.weight_hh", "output.weight": "out.weight"}
    rows = [[layer.name for layer in expected.layers].index(names.get(n.name, n.name)) for n in found.layers]
    np.testing.assert_allclose(found.relative_error, expected.relative_error[rows], rtol=1e-6)
    np.testing.assert_allclose(found.samples, expected.samples[rows], rtol=DAMAGES, atol=1e-9)
    assert found.provenance["scale"] == pytest.approx(expected.provenance["scale"], rel=1e-5)


def test_the_session_is_built_once(mapped: tqs.OnnxSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a session was built")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    table = tqs.score(mapped, horizon=4, initial=START, engine="swapped")
    plan = tqs.allocate(table, average_bits=5)
    assert tqs.evaluate(mapped, tqs.quantize(mapped.module, plan), horizon=4).damage > 0


def test_threads_change_nothing(mapped: tqs.OnnxSystem) -> None:
    before = torch.get_num_threads()
    try:
        tables = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            options = {"method": tqs.Noise(probes=5), "engine": "swapped"}
            tables.append(tqs.score(mapped, horizon=8, initial=START, **options))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(tables[0].samples, tables[1].samples)
    assert np.array_equal(tables[0].curve, tables[1].curve)


def test_lanes_of_several_weights_and_plans(mapped: tqs.OnnxSystem) -> None:
    table = tqs.score(mapped, horizon=4, initial=START, engine="swapped")
    plan = tqs.allocate(table, average_bits=5)
    result = tqs.search(mapped, table, plan, evaluations=8, engine="swapped")
    assert result.provenance["engine"]["name"] == "swapped"
    small = tqs.quantize(mapped.module, result.plan)
    damage = tqs.evaluate(mapped, small, horizon=4)
    assert damage.provenance["engine"]["name"] == "swapped"
    # all weights at once, by the values that the quantizer gives
    rounded = {
        name: result.plan.quantizer.dequantized(parameter.detach(), result.plan.bits[name])
        for name, parameter in mapped.module.named_parameters()
    }
    again = tqs.evaluate(mapped, mapped.module.with_weights(rounded), horizon=4)
    assert np.array_equal(damage.samples, again.samples)


def test_a_tied_probe_moves_a_block_at_once(mapped: tqs.OnnxSystem) -> None:
    options = {"horizon": 3, "initial": START}
    table = tqs.score(mapped, tie=[["A", "B"]], engine="swapped", **options)
    sizes = np.array([layer.parameters for layer in table.layers])
    for column, bits in enumerate(table.bits):
        quantizer = table.quantizer
        parameters = dict(mapped.module.named_parameters())
        both = mapped.module.with_weights({n: quantizer.dequantized(p.detach(), bits) for n, p in parameters.items()})
        expected = tqs.evaluate(mapped, both, seed=0, **options)
        np.testing.assert_allclose(table.samples[:, column].sum(axis=0), expected.samples, rtol=1e-9)
    np.testing.assert_allclose(table.samples[0] * sizes[1], table.samples[1] * sizes[0], rtol=1e-12)
    plan = tqs.allocate(table, average_bits=5)
    assert plan.provenance["tied"] == [["A", "B"]]
    assert len(set(plan.bits.values())) == 1
    with pytest.raises(ArgumentError, match=r"\[score\] the tie pattern 'C' matches no layer; the layers are A, B"):
        tqs.score(mapped, tie=[["C"]], **options)
    with pytest.raises(ArgumentError, match="tie holds several row blocks of one weight"):
        tqs.score(mapped, tie=[["A*"]], row_blocks=2, **options)
    with pytest.raises(ArgumentError, match="WeightError ranks every weight on its own"):
        tqs.score(mapped, tie=[["A", "B"]], method=tqs.WeightError(), **options)


def test_finished_chunks_survive_a_session_that_fails_half_way(
    mapped: tqs.OnnxSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"horizon": 4, "initial": START, "method": tqs.Noise(probes=20), "checkpoint": tmp_path / "chunks"}
    options["engine"] = "swapped"
    expected = tqs.score(mapped, **{**options, "checkpoint": None})
    lanes = 0
    plain = OnnxModule.with_weights

    def failing(self: OnnxModule, replaced: dict[str, torch.Tensor]) -> OnnxModule:
        nonlocal lanes
        lanes += 1
        if lanes > 30:
            raise EngineError("[onnx] model.onnx: ONNX Runtime failed: out of luck")
        return plain(self, replaced)

    monkeypatch.setattr(OnnxModule, "with_weights", failing)
    with pytest.raises(EngineError, match="out of luck"):
        tqs.score(mapped, **options)
    finished = len(list((tmp_path / "chunks").glob("chunk-*.npz")))
    assert finished >= 1
    monkeypatch.setattr(OnnxModule, "with_weights", plain)
    resumed = tqs.score(mapped, **options)
    assert np.array_equal(resumed.samples, expected.samples)


def test_what_needs_torch_is_refused(mapped: tqs.OnnxSystem) -> None:
    options = {"horizon": 3, "initial": START}
    with pytest.raises(ArgumentError, match="stays on the CPU in the precision"):
        mapped.module.double()
    plan = tqs.allocate(tqs.score(mapped, **options), average_bits=5)
    with pytest.raises(ArgumentError, match="needs the inputs of every weight"):
        tqs.quantize(mapped.module, plan, method="gptq", system=mapped)
    with pytest.raises(ArgumentError, match="activations of A to int8"):
        tqs.choose_activations(mapped, plan)
    for function in (tqs.recover, tqs.diagnose_basin):
        with pytest.raises(ArgumentError, match=rf"\[{function.__name__}\] .* no derivatives"):
            function(mapped, plan)
    lorenz = tqs.load_system("lorenz-gru")
    with pytest.raises(ArgumentError, match="expected one outside torch"):
        tqs.score(lorenz, engine="swapped", **options)


def test_a_black_box_is_scored_as_its_own_noise() -> None:
    """Noise that the user injects into torch weights, against the same lanes made by hand."""
    layers = {
        "A": torch.from_numpy(weight(24, 24, scale=0.4)),
        "B": torch.from_numpy(weight(24, 24, seed=1, scale=0.4)),
    }

    def perturb(noise: dict[str, torch.Tensor]):
        moved = {n: w + noise[n] * w.square().mean().sqrt() if n in noise else w for n, w in layers.items()}

        def step(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.sin(3 * torch.tanh(x @ moved["A"].T) @ moved["B"].T)
            return y, y

        return step

    def initial(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 24, generator=generator)

    places = {name: tuple(w.shape) for name, w in layers.items()}
    box = tqs.BlackBox(perturb({}), perturb, places=places, initial_state=initial)
    table = tqs.score(box, horizon=3, method=tqs.Noise(probes=4, epsilon=0.02), initial=tqs.Contexts(states()))
    assert [(layer.name, layer.shape) for layer in table.layers] == [("A", (24, 24)), ("B", (24, 24))]

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A, self.B = torch.nn.Linear(24, 24, bias=False), torch.nn.Linear(24, 24, bias=False)
            self.A.weight.data, self.B.weight.data = layers["A"].clone(), layers["B"].clone()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(3 * self.B(torch.tanh(self.A(x))))

    twin = tqs.System(Plain(), step=lambda m, x: (m(x), m(x)), initial_state=initial)
    other = tqs.score(twin, horizon=3, method=tqs.Noise(probes=64, epsilon=0.02), initial=tqs.Contexts(states()))
    few = tqs.score(box, horizon=3, method=tqs.Noise(probes=64, epsilon=0.02), initial=tqs.Contexts(states()))
    np.testing.assert_allclose(few.gain, other.gain, rtol=0.4)
    with pytest.raises(
        ArgumentError, match=r"expected places with shapes \[outputs, inputs, ...\], got 'A' with \[3\]"
    ):
        tqs.BlackBox(perturb({}), perturb, places={"A": (3,)}, initial_state=initial)


def test_the_command_line_takes_the_file(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tqs_fast.cli.app import app

    path = str(written(recurrent_model("GRU"), tmp_path, "gru.onnx"))
    table, plan, small = (str(tmp_path / name) for name in ("table.json", "plan.json", "small.onnx"))
    shared = ["--horizon", "8", "--count", "4"]
    for arguments in (
        ["score", path, *shared, "--out", table],
        ["allocate", table, "--average-bits", "5", "--out", plan],
        ["quantize", path, plan, "--out", small],
        ["evaluate", path, small, *shared],
        ["evaluate", path, plan, *shared],
    ):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert result.output.startswith("damage ")


class Transformer(torch.nn.Module):
    """A small forecaster: window [N, 12, 2] -> [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, dropout=0.0)
        self.inp, self.out = torch.nn.Linear(2, 16), torch.nn.Linear(16, 2)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for parameter in self.parameters():  # the exporter merges equal weights, as copies of a layer are
            torch.nn.init.normal_(parameter, std=0.3)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * self.out(self.encoder(self.inp(window))[:, -1]))


def test_an_exported_transformer_scores_as_torch_does(tmp_path: Path) -> None:
    """The exporter splits, transposes and renames weights; table, plan and file are those of the torch module."""
    torch.manual_seed(0)
    module = Transformer().eval()
    path = tmp_path / "transformer.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            module,
            (torch.randn(3, 12, 2),),
            str(path),
            input_names=["window"],
            output_names=["forecast"],
            dynamic_axes={"window": {0: "batch"}, "forecast": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    system, twin = tqs.load_system(str(path)), tqs.Forecaster(module, 12, channels=2)
    windows = tqs.Contexts(torch.from_numpy(weight(6, 12, 2, seed=1)))
    options = {"horizon": 4, "initial": windows}
    found, expected = tqs.score(system, **options), tqs.score(twin, engine="torch", **options)
    assert len(found.layers) == len(expected.layers) == 10
    # the rounding error of a weight, to all digits, tells which is which
    rows = [int(np.abs(expected.relative_error - error).sum(axis=1).argmin()) for error in found.relative_error]
    assert sorted(rows) == list(range(10))
    np.testing.assert_allclose(found.relative_error, expected.relative_error[rows], rtol=1e-6)
    np.testing.assert_allclose(found.samples.mean(axis=2), expected.samples[rows].mean(axis=2), rtol=DAMAGES)
    small = tqs.quantize(system.module, tqs.allocate(found, average_bits=5))
    tqs.save(small, tmp_path / "small.onnx")
    predicted = tqs.evaluate(system, small, **options)
    measured = tqs.evaluate(system, tqs.load(system.module, tmp_path / "small.onnx"), **options)
    np.testing.assert_allclose(measured.samples, predicted.samples, rtol=1e-3)
