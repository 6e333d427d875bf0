"""ONNX models as systems: state maps, batches, windows, and rollouts against plain ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import itertools

from onnx import TensorProto, helper

import tqs_fast as tqs
from onnx_models import map_model, model, recurrent_model, run_plain, weight, written
from tqs_fast.errors import ArgumentError, EngineError
from tqs_fast.onnx.session import Port
from tqs_fast.onnx.state_map import resolve
from tqs_fast.systems import Forecaster, iterate

FLOAT = torch.float32


def rolled(system: tqs.System, state: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor] | None, steps: int):
    return torch.stack([output for _, output in iterate(system, state, inputs, steps)])


def test_a_map_against_a_loop_in_plain_onnx_runtime(tmp_path: Path) -> None:
    system = tqs.load_system(str(written(map_model(), tmp_path)))
    assert system.state_map == {"x_next": "x"}
    assert system.name == "model"
    x = weight(5, 24, seed=3)
    expected = run_plain(map_model(), {"x": x}, {"x_next": "x"}, 12, "x_next")
    found = rolled(system, {"x": torch.from_numpy(x)}, None, 12)[:, :, 0].numpy()
    # chaotic, so that rounding grows by the step
    np.testing.assert_allclose(found[:4], expected[:4], atol=1e-4)
    assert found.shape == expected.shape == (12, 5, 24)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_driven_layer_whose_batch_is_not_the_first_axis(tmp_path: Path, kind: str) -> None:
    system = tqs.load_system(str(written(recurrent_model(kind), tmp_path)))
    states = {"hn": "h", "cn": "c"} if kind == "LSTM" else {"hn": "h"}
    assert system.state_map == states
    state = {name: torch.from_numpy(weight(3, 1, 32, seed=i)) for i, name in enumerate(states.values())}
    inputs = torch.from_numpy(weight(3, 9, 1, 16, seed=7))
    feeds = {name: leaf.movedim(0, 1).numpy() for name, leaf in state.items()}
    feeds["input"] = inputs.permute(1, 2, 0, 3).contiguous().numpy()
    expected = run_plain(recurrent_model(kind), feeds, states, 9, "observed")
    found = rolled(system, state, {"input": inputs}, 9)[:, :, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert system.initial_state(4, torch.Generator())["h"].shape == (4, 1, 32)
    assert system.inputs(4, 5, torch.Generator())["input"].shape == (4, 5, 1, 16)


def test_states_are_read_and_written_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first call nothing is copied: what one step returns is what the next one binds."""
    system = tqs.load_system(str(written(recurrent_model("LSTM"), tmp_path)))
    session = system.module._session
    bound: list[dict[str, int]] = []
    plain = type(session).run

    def spy(self, feeds):
        results = plain(self, feeds)
        names = {**{k: v.data_ptr() for k, v in feeds.items()}, **{k: v.data_ptr() for k, v in results.items()}}
        bound.append(names)
        assert all(feeds[name].is_contiguous() for name in ("h", "c"))
        kept.extend([feeds, results])
        return results

    kept: list[object] = []
    monkeypatch.setattr(type(session), "run", spy)
    generator = torch.Generator().manual_seed(0)
    rolled(system, system.initial_state(3, generator), system.inputs(3, 5, generator), 5)
    for before, after in itertools.pairwise(bound):
        assert (before["hn"], before["cn"]) == (after["h"], after["c"])


def test_a_graph_without_a_batch_runs_once_per_initial_condition(tmp_path: Path) -> None:
    fixed = recurrent_model("GRU")
    for port in [*fixed.graph.input, *fixed.graph.output]:
        for size in port.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = 1
    one = tqs.load_system(str(written(fixed, tmp_path, "one.onnx")))
    many = tqs.load_system(str(written(recurrent_model("GRU"), tmp_path)))
    generator = torch.Generator().manual_seed(0)
    state, inputs = many.initial_state(3, generator), many.inputs(3, 6, generator)
    state["h"] = torch.randn(3, 1, 32, generator=generator)
    single = {"h": state["h"].unsqueeze(2)}
    assert one.initial_state(2, generator)["h"].shape == (2, 1, 1, 32)
    found = rolled(one, single, {"input": inputs["input"].unsqueeze(3)}, 6)
    np.testing.assert_allclose(found.numpy(), rolled(many, state, inputs, 6).numpy(), atol=2e-6)


def window_model(block: int = 1) -> object:
    """[n, 8, 2] -> [n, block, 2] or [n, 2]."""
    nodes = [
        helper.make_node("Reshape", ["window", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "A"], ["mixed"]),
        helper.make_node("Sin", ["mixed"], ["sine" if block > 1 else "forecast"]),
    ]
    values = {"A": weight(16, 2 * block, scale=1.5), "flat": np.array([-1, 16])}
    if block > 1:
        nodes.append(helper.make_node("Reshape", ["sine", "form"], ["forecast"]))
        values["form"] = np.array([-1, block, 2])
    shape = ["n", block, 2] if block > 1 else ["n", 2]
    return model(nodes, {"window": ["n", 8, 2]}, {"forecast": shape}, values)


@pytest.mark.parametrize("block", [1, 3])
def test_a_window_in_and_a_forecast_out_is_a_forecaster(tmp_path: Path, block: int) -> None:
    system = tqs.load_system(str(written(window_model(block), tmp_path)))
    assert isinstance(system, Forecaster)
    assert (system.context_length, system.channels, system.block) == (8, 2, block)
    table = tqs.score(system, horizon=6, initial=tqs.Synthetic(count=4))
    assert [layer.name for layer in table.layers] == ["A"]


def test_normalisation_that_is_not_baked_in(tmp_path: Path) -> None:
    mean, deviation = np.linspace(-1, 1, 24).astype(np.float32), np.float32(0.5)
    path = written(map_model(), tmp_path)
    raw, physical = tqs.OnnxSystem(path), tqs.OnnxSystem(path, normalisation={"x": (mean, deviation)})
    x = torch.from_numpy(weight(3, 24, seed=3))
    (_, expected), (_, found) = (
        raw.step(raw.module, {"x": x}),
        physical.step(physical.module, {"x": x * float(deviation) + torch.from_numpy(mean)}),
    )
    np.testing.assert_allclose(found.numpy(), expected.numpy() * deviation + mean, atol=1e-5)
    with pytest.raises(ArgumentError, match="normalisation names states \\(x\\), got 'y'"):
        tqs.OnnxSystem(path, normalisation={"y": (0, 1)})
    with pytest.raises(ArgumentError, match="a mean and a positive deviation that fit \\[24\\] for x"):
        tqs.OnnxSystem(path, normalisation={"x": (mean, -deviation)})


def ports(**shapes: list[object]) -> dict[str, Port]:
    return {name: Port(name, FLOAT, tuple(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("inputs", "outputs", "feeds", "observed"),
    [
        (ports(x=["n", 3]), ports(y=["n", 3]), {"y": "x"}, "y"),
        (ports(x=["n", 3], h=["n", 3]), ports(y=["n", 3], hn=["n", 3]), {"hn": "h"}, "y"),
        (ports(x=["n", 9], state=[2, "n", 3]), ports(p=["n", 1], stateN=[None, None, None]), {"stateN": "state"}, "p"),
        (
            ports(x=["n", 9], past_key=["n", 4], past_value=["n", 4]),
            ports(y=["n", 9], present_key=["n", 4], present_value=["n", 4]),
            {"present_key": "past_key", "present_value": "past_value"},
            "y",
        ),
        (
            ports(hidden_in=["n", 4], u=["n", 4]),
            ports(out=["n", 1], hidden_out=["n", 4]),
            {"hidden_out": "hidden_in"},
            "out",
        ),
        (
            ports(a=["n", 4], b=["n", 5], u=["n", 9]),
            ports(p=["n", 5], q=["n", 4], z=["n", 1]),
            {"p": "b", "q": "a"},
            "z",
        ),
    ],
)
def test_guessed_maps(inputs: dict[str, Port], outputs: dict[str, Port], feeds: dict[str, str], observed: str) -> None:
    found = resolve(inputs, outputs, feeds=None, output=None, constants={}, where="m")
    assert (found.feeds, found.output) == (feeds, observed)
    assert set(found.driven) == set(inputs) - set(feeds.values())


def test_ambiguous_maps_list_the_candidates() -> None:
    inputs, outputs = ports(a=["n", 4], b=["n", 4]), ports(p=["n", 4], q=["n", 4])
    with pytest.raises(ArgumentError, match=r"candidates are p -> a, p -> b, q -> a, q -> b, of inputs a \[n, 4\]"):
        resolve(inputs, outputs, feeds=None, output=None, constants={}, where="m")
    with pytest.raises(ArgumentError, match=r"expected one output to observe, candidates are p \[n, 4\].*, q"):
        resolve(inputs, outputs, feeds={"p": "a", "q": "b"}, output=None, constants={}, where="m")
    found = resolve(inputs, outputs, feeds={"p": "a"}, output=None, constants={"b": 0}, where="m")
    assert (found.output, found.driven) == ("q", ())
    with pytest.raises(ArgumentError, match="candidates are none whose types and shapes agree"):
        resolve(ports(a=["n", 4]), ports(p=["n", 5]), feeds=None, output=None, constants={}, where="m")


@pytest.mark.parametrize(
    ("feeds", "constants", "message"),
    [
        ({}, {}, "the state map is empty"),
        ({"a": "p"}, {}, "a -> p goes the other way; write {'p': 'a'}"),
        ({"z": "a"}, {}, "goes from an output, got 'z'"),
        ({"p": "z"}, {}, "goes to an input, got 'z'"),
        ({"p": "a", "q": "a"}, {}, "feeds a from more than one output"),
        ({"p": "a"}, {"a": 1}, "a is in state_map and in constants"),
        ({"r": "a"}, {}, r"the output r \[n, 5\] float32 cannot feed the input a \[n, 4\]"),
        ({"p": "a"}, {"z": 1}, "constants name inputs, got 'z'"),
    ],
)
def test_wrong_maps(feeds: dict[str, str], constants: dict[str, int], message: str) -> None:
    inputs, outputs = ports(a=["n", 4], b=["n", 4]), ports(p=["n", 4], q=["n", 4], r=["n", 5])
    with pytest.raises(ArgumentError, match=message):
        resolve(inputs, outputs, feeds=feeds, output="p", constants=constants, where="m")


def test_free_sizes_and_integer_inputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["row"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["mean", "h"], ["sum"]),
        helper.make_node("Add", ["sum", "row"], ["hn"]),
    ]
    built = model(
        nodes,
        {"x": ["batch", "length"], "h": ["batch", 4], "token": []},
        {"hn": ["batch", 4]},
        {"table": weight(5, 4)},
        types={"token": TensorProto.INT64},
    )
    path = written(built, tmp_path)
    with pytest.raises(ArgumentError, match=r"nothing gives the input token \[\] int64; give constants="):
        tqs.OnnxSystem(path)
    with pytest.raises(ArgumentError, match=r"the size 'length' of x \[batch, length\] float32 is free; give sizes="):
        tqs.OnnxSystem(path, constants={"token": 2})
    system = tqs.OnnxSystem(path, constants={"token": 2}, sizes={"length": 6})
    generator = torch.Generator().manual_seed(0)
    state, inputs = system.initial_state(3, generator), system.inputs(3, 2, generator)
    _, output = system.step(system.module, state, {"x": inputs["x"][:, 0]})
    expected = inputs["x"][:, 0].mean(dim=1, keepdim=True) + torch.from_numpy(weight(5, 4)[2])
    np.testing.assert_allclose(output.numpy(), expected.numpy(), atol=1e-6)
    with pytest.raises(ArgumentError, match="expected a value of the constant token"):
        tqs.OnnxSystem(path, constants={"token": [1, 2]}, sizes={"length": 6})


def test_other_initial_states_and_inputs_are_the_users(tmp_path: Path) -> None:
    system = tqs.OnnxSystem(
        written(recurrent_model("GRU"), tmp_path),
        initial_state=lambda n, g: {"h": torch.ones(n, 1, 32)},
        inputs=lambda n, steps, g: {"input": torch.randn(n, steps, 1, 16, generator=g)},
        name="mine",
    )
    path = tqs.rollout(
        system, {"h": np.zeros((2, 1, 32), np.float32)}, horizon=3, inputs={"input": np.ones((2, 3, 1, 16), np.float32)}
    )
    assert path.outputs.shape == (3, 2, 32)
    assert system.name == "mine"
    with pytest.raises(
        ArgumentError, match=r"expected the input input \[1, batch, 16\] float32, got \[1, 2, 15\] float32"
    ):
        system.step(system.module, {"h": torch.zeros(2, 1, 32)}, {"input": torch.zeros(2, 1, 15)})


def test_a_session_that_fails_while_it_runs_says_so(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "one"], ["x_next"]),
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    values = {"one": np.ones(1, np.float32), "table": weight(4, 3)}
    path = written(model(nodes, {"x": ["n"]}, {"x_next": ["n"], "y": ["n", 3]}, values), tmp_path)
    system = tqs.OnnxSystem(path, initial_state=lambda n, g: {"x": torch.zeros(n)})
    with pytest.raises(EngineError, match=r"model.onnx: ONNX Runtime failed: .*; check sizes, initial states"):
        tqs.rollout(system, {"x": np.zeros(2, np.float32)}, horizon=8, engine="torch")
