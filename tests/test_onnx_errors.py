"""Bad files and bad uses of good ones: one clear error each, no crash, no hang."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

import tqs_fast as tqs
from onnx_models import map_model, model, recurrent_model, weight, written
from tqs_fast.errors import ArgumentError, FileFormatError, TqsError

Corpus = dict[str, tuple[Callable[[Path], Path], type[TqsError], str]]


def raw(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "bad.onnx"
        path.write_bytes(content)
        return path

    return write


def truncated(share: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = map_model().SerializeToString()
        return raw(content[: int(share * len(content))])(folder)

    return write


def changed(change: Callable[[onnx.ModelProto], None], base: Callable[[], onnx.ModelProto] = map_model):
    def write(folder: Path) -> Path:
        built = base()
        change(built)
        return raw(built.SerializeToString())(folder)

    return write


def external(change: Callable[[Path], None]) -> Callable[[Path], Path]:
    """A model with its data in bad.data, and something done to the folder."""

    def write(folder: Path) -> Path:
        path = written(
            map_model(), folder, "bad.onnx", save_as_external_data=True, location="bad.data", size_threshold=0
        )
        change(folder)
        return path

    return write


def relocated(key: str, value: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        built = onnx.load(folder / "bad.onnx", load_external_data=False)
        entry = next(e for e in built.graph.initializer[0].external_data if e.key == key)
        entry.value = value
        (folder / "bad.onnx").write_bytes(built.SerializeToString())

    return change


def dims(*sizes: int) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        del built.graph.initializer[0].dims[:]
        built.graph.initializer[0].dims.extend(sizes)

    return change


def of_type(kind: int) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        built.graph.initializer[0].data_type = kind

    return change


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        built.opset_import[0].version = version

    return change


def first_node(**fields: str) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(built.graph.node[0], name, value)

    return change


def rewired(position: int, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        built.graph.node[0].input[position] = name

    return change


def with_values(**values: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        for tensor in built.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))

    return change


def resized(name: str, *sizes: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(built: onnx.ModelProto) -> None:
        port = next(p for p in [*built.graph.input, *built.graph.output] if p.name == name)
        port.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))

    return change


def hidden(name: str) -> Callable[[onnx.ModelProto], None]:
    """The output of that name removed."""

    def change(built: onnx.ModelProto) -> None:
        kept = [port for port in built.graph.output if port.name != name]
        del built.graph.output[:]
        built.graph.output.extend(kept)

    return change


def text_model() -> onnx.ModelProto:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": ["n"]},
        {"y": ["n"]},
        {},
        types={"x": TensorProto.STRING, "y": TensorProto.STRING},
    )


def unresolved() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "A"], ["y"])]
    return model(nodes, {"x": ["batch", "rows", 4]}, {"y": ["batch", "rows", 4]}, {"A": weight(4, 4)})


def narrowing() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "A"], ["y"])]
    return model(nodes, {"x": ["n", 4]}, {"y": ["n", 3]}, {"A": weight(4, 3)})


def integers() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "A"], ["y"])]
    kinds = {"x": TensorProto.INT64, "y": TensorProto.INT64}
    return model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"A": np.ones((4, 4), np.int64)}, types=kinds)


def int8_weights() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=TensorProto.INT32),
        helper.make_node("MatMul", ["small", "A"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    return model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"A": np.ones((4, 4), np.int32)})


def cyclic() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["b", "A"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])]
    return model(nodes, {"x": ["n", 4]}, {"b": ["n", 4]}, {"A": weight(4, 4)})


def broken_fold() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Reshape", ["A", "form"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    return model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"A": weight(4, 4), "form": np.array([5, 5])})


FILE, ARGUMENT = FileFormatError, ArgumentError
CORPUS: Corpus = {
    "missing": (lambda folder: folder / "bad.onnx", FILE, "cannot read .*bad.onnx .*No such file"),
    "a folder": (lambda folder: folder, FILE, "cannot read|is not an ONNX file"),
    "empty": (raw(b""), FILE, "holds no graph"),
    "text": (raw(b"this is no protobuf at all, only words"), FILE, "not an ONNX file, or was truncated|holds no graph"),
    "zeros": (raw(bytes(4096)), FILE, "not an ONNX file, or was truncated|holds no graph"),
    "cut at 10 %": (truncated(0.1), FILE, "truncated|holds no graph"),
    "cut at 50 %": (truncated(0.5), FILE, "truncated|holds no graph"),
    "cut at 99 %": (truncated(0.99), FILE, "truncated|holds no graph|not a valid model"),
    "opset 9": (changed(opset(9)), FILE, "is of opset 9, expected 12 or newer"),
    "opset 999": (changed(opset(999)), FILE, "not a valid model|ONNX Runtime refuses"),
    "no opset": (changed(lambda built: built.ClearField("opset_import")), FILE, "is of opset 0"),
    "no output": (changed(lambda built: built.graph.ClearField("output")), FILE, "has no output"),
    "no nodes": (changed(lambda built: built.graph.ClearField("node")), FILE, "holds no graph"),
    "unknown operator": (changed(first_node(op_type="MatMull")), FILE, "not a valid model .*MatMull"),
    "unknown domain": (changed(first_node(domain="nowhere")), FILE, "not a valid model|ONNX Runtime refuses"),
    "dangling input": (changed(rewired(0, "nowhere")), FILE, "not a valid model .*nowhere"),
    "cycle in the graph": (raw(cyclic().SerializeToString()), FILE, "not a valid model .*topologically sorted"),
    "too few values": (changed(dims(240, 480)), FILE, r"values of A do not fill its shape \[240, 480\]"),
    "huge dims": (changed(dims(2**40, 2**20)), FILE, "values of A do not fill its shape"),
    "negative dims": (changed(dims(-24, 48)), FILE, "A has a negative size"),
    "another type": (changed(of_type(TensorProto.DOUBLE)), FILE, "values of A do not fill its shape"),
    "unknown type": (changed(of_type(77)), FILE, "values of A do not fill its shape"),
    "mixed types": (
        changed(with_values(A=weight(24, 48).astype(np.float64))),
        FILE,
        "not a valid model|ONNX Runtime refuses .*type",
    ),
    "shapes that do not multiply": (changed(with_values(A=weight(23, 48))), FILE, "ONNX Runtime refuses"),
    "constants that cannot be folded": (
        raw(broken_fold().SerializeToString()),
        FILE,
        "turned cannot be computed by Reshape",
    ),
    "data missing": (
        external(lambda f: (f / "bad.data").unlink()),
        FILE,
        "data of A are missing .*put that file beside",
    ),
    "data truncated": (
        external(lambda f: (f / "bad.data").write_bytes((f / "bad.data").read_bytes()[:1000])),
        FILE,
        r"A of shape \[24, 48\] needs 4608 bytes at 0 of bad.data, which holds 1000",
    ),
    "data elsewhere": (
        external(relocated("location", "../../etc/passwd")),
        FILE,
        "expected the data of A in the model's",
    ),
    "data of another length": (external(relocated("length", "4607")), FILE, "the model says 4607"),
    "a length that is no number": (external(relocated("length", "many")), FILE, "is damaged"),
    "data at a wild offset": (external(relocated("offset", "123456789012")), FILE, "needs 4608 bytes at 123456789012"),
    "data at no number": (external(relocated("offset", "soon")), FILE, "A is damaged"),
    "text inputs": (raw(text_model().SerializeToString()), FILE, "x is a tensor\\(string\\), expected one of"),
    "integer state": (raw(integers().SerializeToString()), ARGUMENT, "no quantizable layer was found in OnnxModule"),
    "integer weights": (raw(int8_weights().SerializeToString()), ARGUMENT, "A is int32, not a float"),
    "NaN in a weight": (
        changed(with_values(A=np.where(np.arange(48) == 3, np.nan, weight(24, 48)).astype(np.float32))),
        ARGUMENT,
        "A holds NaN or infinity",
    ),
    "nothing fed back": (raw(narrowing().SerializeToString()), ARGUMENT, "candidates are none whose types and shapes"),
    "state size huge": (changed(resized("x", "batch", 2**40)), TqsError, "one value of x|ONNX Runtime refuses"),
    "free size": (raw(unresolved().SerializeToString()), ARGUMENT, "the batch could be any of|the size 'rows' of x"),
    "no state left": (
        changed(hidden("hn"), recurrent_model),
        ARGUMENT,
        "cannot be told from names and shapes; candidates",
    ),
}


@pytest.mark.parametrize("name", CORPUS)
def test_bad_files(tmp_path: Path, name: str) -> None:
    make, kind, message = CORPUS[name]
    path = make(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        tqs.score(tqs.systems.onnx_system.open_onnx(path), horizon=2, initial=tqs.Attractor(count=2, spin_up=2))
    text = str(caught.value)
    assert text.startswith("[")
    assert "\n" not in text
    assert len(text) < 600


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 20


def test_every_prefix_of_a_file_is_refused_or_complete(tmp_path: Path) -> None:
    content = map_model(4).SerializeToString()
    for length in range(0, len(content), 37):
        path = raw(content[:length])(tmp_path)
        with pytest.raises(TqsError):
            tqs.OnnxModule(path)


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    content = bytearray(recurrent_model(size=4, hidden=4).SerializeToString())
    generator = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 3):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(TqsError):
            tqs.OnnxModule(raw(bytes(damaged))(tmp_path))


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(map_model(), tmp_path)
    plain = importlib.import_module

    def refuse(name: str, package: str | None = None):
        if name.split(".")[0] in ("onnx", "onnxruntime"):
            raise ImportError(f"No module named {name!r}")
        return plain(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ArgumentError, match=r"ONNX models need onnx .*pip install \"tqs-fast\[onnx\]\""):
        tqs.load_system(str(path))
