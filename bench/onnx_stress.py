"""Question: what do memory and time of scoring a large ONNX file block by block cost, over its weights and one rollout?

A forecaster of the shape of Pangu-Weather's: tokens of a field, 20 attention blocks of width 1024, 252 million float32
parameters in external data, fed back. Everything runs in a process of its own, so that peaks are of that alone:

constant  plain ONNX Runtime, weights constant: what a rollout takes at least
unpacked  the same without prepacking of constant weights
lifted    OnnxSystem: every weight an input of one session, mapped from disk
noise, residual  `score` by blocks (tie), lanes swapped into that session: time of a probe, everything that `score` does
          but the float rollout shared out among the probes, over that of one rollout
native    `score` by the native engine, which copies the weights into its own form
one-block a session with one block's weights as inputs and all others constant: what building one per block would cost
rows      a call with `rows` rows through matrix products of width 1024, lifted over constant: how prepacking fades

Peaks are of resident memory above what the process had after its imports, polled every 5 ms: all of it, and what is not
backed by a file (mapped weights are clean pages that the system may drop at any time).

    python bench/onnx_stress.py [--tokens 128] [--conditions 2] [--steps 2] [--blocks 20] [--probes 4]
        [--modes noise residual]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

import harness
import tqs_fast as tqs

CHANNELS, HEADS, WIDTH = 64, 16, 1024
MODES = ("constant", "unpacked", "lifted", "noise", "residual", "native", "one-block")
ROWS = (1, 4, 16, 64, 256, 512)


def write_model(path: Path, blocks: int, tokens: int) -> int:
    """The forecaster; its number of parameters."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    tensors: list[Any] = []

    def add(name: str, values: Any) -> str:
        tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        return add(name, rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale * rows**-0.5))

    def node(op: str, inputs: str, outputs: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs.split(), outputs.split(), name=f"make {outputs}", **attributes))

    add("heads", np.array([0, tokens, HEADS, WIDTH // HEADS]))
    add("flat", np.array([0, tokens, WIDTH]))
    add("ones", np.ones(WIDTH, np.float32))
    add("zeros", np.zeros(WIDTH, np.float32))
    for name, value in {"scale": (WIDTH // HEADS) ** -0.5, "half": 0.5, "one": 1, "root": 2**0.5, "three": 3}.items():
        add(name, np.float32(value))
    add("place", rng.standard_normal((tokens, WIDTH), dtype=np.float32) * np.float32(0.02))
    node("MatMul", f"x {weight('embed', CHANNELS, WIDTH)}", "e")
    node("Add", "e place", "h0")
    for b in range(blocks):
        p = f"block{b}."
        node("LayerNormalization", f"h{b} ones zeros", f"{p}n")
        node("MatMul", f"{p}n {weight(f'{p}qkv', WIDTH, 3 * WIDTH)}", f"{p}p")
        node("Split", f"{p}p", f"{p}q {p}k {p}v", axis=2)
        for part in "qkv":
            node("Reshape", f"{p}{part} heads", f"{p}{part}h")
            node("Transpose", f"{p}{part}h", f"{p}{part}t", perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
        node("MatMul", f"{p}qt {p}kt", f"{p}s")
        node("Mul", f"{p}s scale", f"{p}ss")
        node("Softmax", f"{p}ss", f"{p}a", axis=-1)
        node("MatMul", f"{p}a {p}vt", f"{p}o")
        node("Transpose", f"{p}o", f"{p}ot", perm=[0, 2, 1, 3])
        node("Reshape", f"{p}ot flat", f"{p}of")
        node("MatMul", f"{p}of {weight(f'{p}out', WIDTH, WIDTH, 0.3)}", f"{p}oo")
        node("Add", f"h{b} {p}oo", f"{p}r")
        node("LayerNormalization", f"{p}r ones zeros", f"{p}m")
        node("MatMul", f"{p}m {weight(f'{p}up', WIDTH, 4 * WIDTH)}", f"{p}u")
        for op, given, result in (
            ("Div", "u root", "d"),
            ("Erf", "d", "f"),
            ("Add", "f one", "g"),
            ("Mul", "u g", "w"),
            ("Mul", "w half", "z"),
        ):
            known = ("root", "one", "half")
            node(op, " ".join(name if name in known else p + name for name in given.split()), p + result)
        node("MatMul", f"{p}z {weight(f'{p}down', 4 * WIDTH, WIDTH, 0.3)}", f"{p}y")
        node("Add", f"{p}r {p}y", f"h{b + 1}")
    node("LayerNormalization", f"h{blocks} ones zeros", "last")
    node("MatMul", f"last {weight('head', WIDTH, CHANNELS)}", "raw")
    node("Mul", "raw three", "angle")
    node("Sin", "angle", "x_next")
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", tokens, CHANNELS])]
        for name in ("x", "x_next")
    ]
    graph = helper.make_graph(nodes, "stress", *ports, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=4096)
    return sum(int(np.prod(tensor.dims)) for tensor in tensors)


class Memory:
    """Peaks of resident memory since it was made, in MiB."""

    def __init__(self) -> None:
        self._first = self._now()
        self.peak = dict.fromkeys(self._first, 0)
        threading.Thread(target=self._poll, daemon=True).start()

    def _now(self) -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {
            k: int(v.split()[0]) // 1024 for k, v in (line.split(":") for line in lines) if k in ("VmRSS", "RssAnon")
        }

    def _poll(self) -> None:
        while True:
            for key, value in self._now().items():
                self.peak[key] = max(self.peak[key], value - self._first[key])
            time.sleep(0.005)


def session(path: Path, *, prepack: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    built = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: built.run(None, {"x": x})[0]


def measure(mode: str, path: Path, conditions: int, steps: int, probes: int) -> dict[str, Any]:
    memory = Memory()
    if mode in ("constant", "unpacked"):
        start = time.process_time()
        call = session(path, prepack=mode == "constant")
        built = time.process_time() - start
        tokens = json.loads(path.with_suffix(".json").read_text())["tokens"]
        x = np.random.default_rng(0).standard_normal((conditions, tokens, CHANNELS), dtype=np.float32)

        def plain() -> None:
            y = x
            for _ in range(steps):
                y = call(y)

        plain()
        seconds = [clocked(plain) for _ in range(2)]
        return {"build_seconds": built, "rollout_seconds": min(seconds), "peak_mib": memory.peak}
    if mode == "one-block":
        return one_block(path, memory)
    start = time.process_time()
    system = tqs.OnnxSystem(path)
    built = time.process_time() - start
    x = {
        "x": torch.randn(conditions, *system.state_template["x"].shape[1:], generator=torch.Generator().manual_seed(0))
    }

    def rollout() -> None:
        state = x
        for _ in range(steps):
            state, _ = system.step(system.module, state)

    system.step(system.module, x)
    one = min(clocked(rollout) for _ in range(2 if mode == "lifted" else 1))
    found = {"build_seconds": built, "rollout_seconds": one}
    if mode != "lifted":
        method = tqs.Residual(bits=(4,)) if mode == "residual" else tqs.Noise(probes=1)
        engine = "native" if mode == "native" else "swapped"
        groups = [[f"block{b}.*"] for b in range(probes)]
        layers = [f"block{b}.*" for b in range(probes)]
        options = {"horizon": steps, "initial": tqs.Contexts(x), "method": method, "engine": engine}
        total = clocked(lambda: tqs.score(system, tie=groups, layers=layers, **options))
        found |= {"probes": probes, "score_seconds": total, "probe_over_rollout": (total - one) / probes / one}
    return found | {"peak_mib": memory.peak}


def one_block(path: Path, memory: Memory) -> dict[str, Any]:
    """A block's weights as inputs beside constant ones: a session for each block would be built like this."""
    model = onnx.load_model(path, load_external_data=False)
    own = [tensor for tensor in model.graph.initializer if tensor.name.startswith("block0.")]
    for tensor in own:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
        model.graph.initializer.remove(tensor)
    other = path.with_name("one.onnx")
    other.write_bytes(model.SerializeToString())
    start = time.process_time()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(str(other), options, providers=["CPUExecutionProvider"])
    return {"build_seconds": time.process_time() - start, "peak_mib": memory.peak}


def clocked(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def by_rows(folder: Path) -> list[dict[str, Any]]:
    """Eight products of width 1024 in sequence, `rows` rows a call."""
    rng = np.random.default_rng(0)
    names = [f"W{i}" for i in range(8)]
    tensors = [
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(WIDTH**-0.5), name)
        for name in names
    ]
    nodes, last = [], "x"
    for name in names:
        nodes += [
            helper.make_node("MatMul", [last, name], [f"m{name}"]),
            helper.make_node("Tanh", [f"m{name}"], [f"t{name}"]),
        ]
        last = f"t{name}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "rows", *ports, tensors)
    path = folder / "rows.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    constant, unpacked, lifted = session(path), session(path, prepack=False), tqs.onnx.OnnxModule(path)
    rows = []
    for count in ROWS:
        x = torch.randn(count, WIDTH)
        repeats = max(1, 128 // count)
        functions = {
            "constant": lambda x=x, n=repeats: [constant(x.numpy()) for _ in range(n)],
            "unpacked": lambda x=x, n=repeats: [unpacked(x.numpy()) for _ in range(n)],
            "lifted": lambda x=x, n=repeats: [lifted.run({"x": x}) for _ in range(n)],
        }
        seconds = harness.paired(functions, 9, time.process_time)
        over = {name: harness.ratio(seconds, name, "constant") for name in ("unpacked", "lifted")}
        rows.append({"rows": count, "over_constant": over})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--conditions", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--probes", type=int, default=4, help="blocks that are scored")
    parser.add_argument(
        "--modes", nargs="+", default=list(MODES), choices=MODES, help="others are kept as they are in the file"
    )
    parser.add_argument("--measure", nargs=2, metavar=("MODE", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--out", default="onnx_stress")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        mode, path = arguments.measure
        sizes = (arguments.conditions, arguments.steps, arguments.probes)
        print(json.dumps(measure(mode, Path(path), *sizes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stress.onnx")
        parameters = write_model(path, arguments.blocks, arguments.tokens)
        path.with_suffix(".json").write_text(json.dumps({"tokens": arguments.tokens}))
        own = [f"--{name}={getattr(arguments, name)}" for name in ("conditions", "steps", "probes")]
        kept = harness.RESULTS / f"{arguments.out}.json"
        document = json.loads(kept.read_text()) if kept.exists() else {}
        found: dict[str, Any] = document.get("modes", {})
        for mode in arguments.modes:
            command = [sys.executable, __file__, *own, "--measure", mode, str(path)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            found[mode] = json.loads(ran.stdout.splitlines()[-1])
            weights = parameters * 4 / 2**20
            found[mode]["peak_over_weights"] = {k: v / weights for k, v in found[mode]["peak_mib"].items()}
            found[mode] |= {"steps": arguments.steps, "machine": harness.STARTED}
            print(mode, json.dumps(found[mode]), flush=True)
        document |= {
            "parameters": parameters, "tokens": arguments.tokens, "conditions": arguments.conditions,
            "blocks": arguments.blocks, "modes": found,
        }  # fmt: skip
        if "constant" in arguments.modes:
            document["rows"] = by_rows(Path(folder))
    document.pop("machine", None)
    print("written to", harness.write(arguments.out, document))


if __name__ == "__main__":
    main()
