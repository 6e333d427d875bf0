"""The sensitivity table: what its numbers mean, that files come back bit for bit, and that bad content is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.quantization import Quantizer
from tqs_fast.scoring.sensitivity import Layer, Sensitivity

FIELDS = [f.name for f in dataclasses.fields(Sensitivity)]


STORED = ("samples", "curve", "relative_error", "probe_stderr", "gain", "growth_rate")


def make(**changes: Any) -> Sensitivity:
    """Two layers, three bit-widths, five initial conditions in two families, four steps."""
    rng = np.random.default_rng(7)
    values: dict[str, Any] = {
        "layers": (Layer("gru.weight_ih_l0", "GRU", (48, 3), 144), Layer("head.weight", "Linear", (3, 16), 48)),
        "bits": (2, 4, 8),
        "quantizer": Quantizer(group_size=32, symmetric=False, search="minmax"),
        "samples": rng.lognormal(size=(2, 3, 5)),
        "families": ("attractor", "synthetic"),
        "family_of": np.array([0, 1, 0, 0, 1]),
        "curve": rng.lognormal(size=(2, 3, 4)),
        "relative_error": rng.random((2, 3)),
        "gain": np.array([1.5, math.nan]),
        "growth_rate": np.array([0.25, math.nan]),
        "growth_window": np.array([[0, 3], [0, 0]]),
        "provenance": {"system": "lorenz-gru", "horizon": 4, "versions": {"torch": "2"}, "initial": [1, None, True]},
    }
    return Sensitivity(**{**values, **changes})


def same(a: Sensitivity, b: Sensitivity) -> bool:
    """Bitwise equality of every field."""
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


def test_damage_weighs_families_alike() -> None:
    table = make()
    samples = table.samples
    first, second = samples[:, :, [0, 2, 3]], samples[:, :, [1, 4]]
    np.testing.assert_allclose(table.damage_of_family[0], first.mean(-1), rtol=1e-15)
    np.testing.assert_allclose(table.damage_of_family[1], second.mean(-1), rtol=1e-15)
    np.testing.assert_allclose(table.damage, (first.mean(-1) + second.mean(-1)) / 2, rtol=1e-15)
    # Five samples of one kind and two of another: a plain mean over all samples would differ.
    assert not np.allclose(table.damage, samples.mean(-1), rtol=1e-3)


def test_stderr_combines_families() -> None:
    table = make()
    parts = [table.samples[:, :, [0, 2, 3]], table.samples[:, :, [1, 4]]]
    variance = sum(part.var(axis=-1, ddof=1) / part.shape[-1] for part in parts)
    np.testing.assert_allclose(table.stderr, np.sqrt(variance) / 2, rtol=1e-12)


def test_stderr_is_unknown_for_a_single_initial_condition() -> None:
    table = make(family_of=np.array([0, 0, 0, 0, 1]))
    assert np.isnan(table.stderr).all()
    assert np.isfinite(table.damage).all()


def test_a_diverged_rollout_has_infinite_damage_and_no_stderr() -> None:
    samples = make().samples.copy()
    samples[1, 0, 2] = math.inf
    table = make(samples=samples)
    assert table.damage[1, 0] == math.inf
    assert math.isnan(table.stderr[1, 0])
    assert np.isfinite(np.delete(table.damage.ravel(), 3)).all()
    assert "diverged" in str(table)


def test_enormous_samples_do_not_warn() -> None:
    table = make(samples=np.full((2, 3, 5), 1.7e308))
    assert np.isinf(table.damage).all()


def test_damage_does_not_depend_on_the_other_layers() -> None:
    table = make(samples=np.random.default_rng(0).lognormal(sigma=3, size=(2, 3, 5)))
    for i, layer in enumerate(table.layers):
        keep = slice(i, i + 1)
        alone = dataclasses.replace(
            table,
            layers=(layer,),
            **{name: getattr(table, name)[keep] for name in (*STORED, "growth_window")},
        )
        assert alone.damage.tobytes() == table.damage[keep].tobytes()
        assert alone.stderr.tobytes() == table.stderr[keep].tobytes()


def test_arrays_are_private_and_read_only() -> None:
    samples = np.ones((2, 3, 5))
    table = make(samples=samples)
    samples[:] = 9
    assert (table.damage == 1).all()
    for name in (
        "samples",
        "family_of",
        "curve",
        "gain",
        "growth_rate",
        "growth_window",
        "relative_error",
        "damage",
        "stderr",
        "damage_of_family",
    ):
        with pytest.raises(ValueError, match="read-only"):
            getattr(table, name)[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.bits = (2,)  # type: ignore[misc]


def test_file_round_trip_is_bit_exact(tmp_path: Path) -> None:
    samples = make().samples.copy()
    samples[0, 0, 0], samples[0, 1, 1], samples[1, 2, 3] = math.inf, 5e-324, 0.1 + 0.2
    curve = make().curve.copy()
    curve[0, 0] = [math.nan, math.inf, 1.7976931348623157e308, 0.0]
    table = make(samples=samples, curve=curve, gain=np.array([math.inf, -math.inf]))
    table.save(tmp_path / "t.json")
    assert same(Sensitivity.load(tmp_path / "t.json"), table)
    text = (tmp_path / "t.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == table.to_json()


def test_saving_twice_gives_the_same_bytes_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    make().save(path)
    first = path.read_bytes()
    make().save(str(path))
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "t.json"
    make().save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(ArgumentError, match=r"\[Sensitivity.save\] cannot write .*No space left"):
        make(bits=(3, 4, 8)).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.json"]


def test_unwritable_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "t.json", tmp_path / "file" / "t.json"):
        with pytest.raises(ArgumentError, match="choose a writable path"):
            make().save(path)


def test_copies_and_pickles() -> None:
    table = make()
    assert same(pickle.loads(pickle.dumps(table)), table)
    assert same(copy.deepcopy(table), table)


def test_table_names_every_layer_in_order_and_lines_up() -> None:
    lines = str(make()).splitlines()
    assert lines[0].split("  ")[0].strip() == "layer"
    assert [line.split()[0] for line in lines[2:4]] == ["gru.weight_ih_l0", "head.weight"]
    assert "damage, 2 bits" in lines[0]
    assert " ± " in lines[2]
    assert " - " in lines[3]  # the growth rate that could not be fitted
    assert len({len(line) for line in lines[:4]}) == 1
    assert "3 attractor, 2 synthetic" in lines[-1]


NAN_SAMPLES = np.ones((2, 3, 5))
NAN_SAMPLES[1, 2, 3] = math.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": np.ones((2, 3))}, r"samples of numbers with shape \[2, 3, any\], got float64 \[2, 3\]"),
        ({"samples": np.ones((2, 2, 5))}, r"samples .*\[2, 3, any\]"),
        ({"samples": np.ones((2, 3, 0))}, r"samples .*\[2, 3, any\]"),
        ({"samples": NAN_SAMPLES}, r"got nan for head.weight at 8 bits, initial condition 3"),
        ({"samples": -np.ones((2, 3, 5))}, r"samples >= 0"),
        ({"samples": np.full((2, 3, 5), "x")}, r"samples of numbers"),
        ({"curve": np.ones((2, 3, 0))}, r"curve .*\[2, 3, any\]"),
        ({"relative_error": np.ones((3, 2))}, r"relative_error"),
        ({"gain": np.ones(3)}, r"gain"),
        ({"growth_rate": np.ones((2, 1))}, r"growth_rate"),
        ({"growth_window": np.array([[0, 5], [0, 0]])}, r"first <= end <= 4 steps"),
        ({"growth_window": np.array([[2, 1], [0, 0]])}, r"first <= end"),
        ({"growth_window": np.ones((2, 2))}, r"growth_window of integers"),
        ({"family_of": np.zeros(5, dtype=int)}, r"each of 0..1, got \[0\]"),
        ({"family_of": np.array([0, 1, 2, 0, 1])}, r"each of 0..1"),
        ({"family_of": np.zeros(4, dtype=int)}, r"family_of of integers with shape \[5\]"),
        ({"families": ()}, r"families"),
        ({"families": ("a", "a")}, r"'a' twice"),
        ({"bits": (4, 2, 8)}, r"bits increasing"),
        ({"bits": (2, 4, 5)}, r"among \(2, 3, 4, 8\)"),
        ({"bits": ()}, r"bits increasing"),
        ({"layers": ()}, r"at least one of layers"),
        ({"layers": (Layer("a", "Linear", (2, 2), 4),) * 2}, r"'a' twice"),
        ({"provenance": {"memory": math.inf}}, r"provenance\['memory'\]"),
        ({"provenance": {"system": object()}}, r"finite JSON values"),
        ({"provenance": {3: "x"}}, r"finite JSON values"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (("", "Linear", (2, 2), 4), "name"),
        (("a", "Linear", (), 1), "sizes >= 1"),
        (("a", "Linear", (2, 0), 0), "sizes >= 1"),
        (("a", "Linear", (2, 2), 5), "expected 4 parameters"),
    ],
)
def test_impossible_layers_are_refused(layer: tuple[str, str, tuple[int, ...], int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Layer(*layer)


def test_provenance_takes_numpy_scalars_and_tuples() -> None:
    table = make(provenance={"horizon": np.int64(4), "share": np.float32(0.5), "seeds": (1, 2)})
    assert table.provenance == {"horizon": 4, "share": 0.5, "seeds": [1, 2]}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"\[Sensitivity.load\] .*none.json: cannot be read"):
        Sensitivity.load(tmp_path / "none.json")
    with pytest.raises(FileFormatError, match="cannot be read"):
        Sensitivity.load(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    make().save(path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="perhaps truncated"):
            Sensitivity.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not text"),
        (b"[1, 2]", "got 'list'"),
        (b"{}", "got None"),
        (b'{"format": "tqs-fast/plan", "version": 1}', "got 'tqs-fast/plan'"),
        (b'{"format": "tqs-fast/sensitivity"}', "expected tqs-fast/sensitivity version 1, got None"),
        (b'{"format": "tqs-fast/sensitivity", "version": 2}', "version 1, got 2"),
        (b'{"format": "tqs-fast/sensitivity", "version": true}', "version 1, got True"),
        (b'{"format": "tqs-fast/sensitivity", "version": 1}', "'.*' is missing"),
        (b'{"format": "tqs-fast/sensitivity", "version": 1, "version": 1}', "same key twice"),
        (b'{"format": "tqs-fast/sensitivity", "version": 1, "gain": [NaN]}', "NaN is not JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        Sensitivity.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", []), ("layers", [3]), ("layers", {}), ("layers", [{"name": "a"}]),
        ("layers", [{"name": "a", "kind": "b", "shape": [2.5, 1], "parameters": 2}] * 2),
        ("layers", [{"name": "a", "kind": "b", "shape": [2, 1], "parameters": True}] * 2),
        ("bits", [2, 4]), ("bits", [2, 4, "8"]), ("bits", 4), ("bits", [2, 4, 8.0]), ("bits", [2, 4, 10**30]),
        ("quantizer", {"group_size": 33, "symmetric": True, "search": "mse"}),
        ("quantizer", {"group_size": 32, "symmetric": 1, "search": "mse"}),
        ("quantizer", None),
        ("samples", [[1.0]]), ("samples", [[[1.0], [1.0, 2.0]]]), ("samples", []), ("samples", [[[]]]),
        ("samples", [[["x"]]]), ("samples", [[[True]]]), ("samples", 3), ("samples", [[[10**400]]]),
        ("samples", [[[1.0] * 5] * 3, [[1.0] * 5] * 2]), ("samples", [[[None] * 5] * 3] * 2),
        ("curve", [[[1.0] * 4] * 3]), ("gain", [1.0]), ("gain", ["Infinity", 1.0]), ("growth_window", [[0, 99]] * 2),
        ("growth_rate", None), ("relative_error", [[1.0] * 3]), ("families", "attractor"), ("families", [1, 2]),
        ("family_of", [0, 1, 0, 0]), ("family_of", [0, 0, 0, 0, 0]), ("provenance", []),
    ],
)  # fmt: skip
def test_inconsistent_files_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "t.json"
    document = {**make().to_json(), key: value}
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=r"\[Sensitivity.load\] .*t\.json"):
        Sensitivity.load(path)


@pytest.mark.parametrize("key", [name for name in make().to_json() if name not in ("damage", "stderr")])
def test_every_field_is_needed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "t.json"
    document = make().to_json()
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError):
        Sensitivity.load(path)
