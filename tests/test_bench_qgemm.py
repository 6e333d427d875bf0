"""The contestants of bench_qgemm multiply by the same weight; wrong products are caught; limits and layers."""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import bench_qgemm
from qgemm import limits, ways
from qgemm.contestant import UnsupportedError, rotating, to_array
from qgemm.layers import find_layers, random_layer
from qgemm.weight import problem, turned, unpack
from tqs_fast import kernels

ROWS, SHAPE, COPIES = 3, (32, 256), 3
FORMATS = [(4, 128, True), (4, 128, False), (4, 32, True), (4, 0, True), (8, 0, True)]
CASES = [(name, form) for name in ways.WAYS for form in FORMATS if form[0] in ways.WAYS[name].bits]


@cache
def weight_of(bits, group_size, symmetric):
    weight = random_layer("random", *SHAPE).read()
    return unpack(kernels.pack(weight, bits=bits, group_size=group_size, symmetric=symmetric))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only wait for each other at these sizes, and spin meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_unpacked_codes_are_the_weight(form):
    weight = weight_of(*form)
    group = SHAPE[1] // weight.scales.shape[1]
    scales, zeros = (np.repeat(part, group, axis=1) for part in (weight.scales, weight.zeros))
    np.testing.assert_array_equal(scales * (weight.codes - zeros.astype(np.float32)), weight.packed.dequantize())


@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
def test_every_contestant_multiplies_by_every_copy(name, form):
    way, weight = ways.WAYS[name], weight_of(*form)
    for package in way.packages:
        pytest.importorskip(package)
    bind = ways.find_function(way)(weight, COPIES, 1, **way.further)
    given = problem(weight, ROWS)
    row, bound = bench_qgemm.prepare(name, bind, given, every_copy=True)
    assert bound, row
    assert len(bound.outputs()) == COPIES
    product = to_array(bound.cold())  # by one copy, or the last of all, in whatever order
    assert min(given.error(product, copy) for copy in range(COPIES)) <= given.tolerance(way.activations)


@pytest.mark.parametrize("name", [name for name in ways.WAYS if ways.WAYS[name].bits == (8,)])
def test_who_knows_symmetric_weights_only_refuses_others(name):
    way = ways.WAYS[name]
    for package in way.packages:
        pytest.importorskip(package)
    with pytest.raises(UnsupportedError, match="symmetric"):
        ways.find_function(way)(weight_of(8, 0, False), 1, 1, **way.further)


@pytest.mark.parametrize("activations", ["int8", "float32", "bfloat16"])
@pytest.mark.parametrize("fault", ["sign", "element", "tile", "nan", "scale", "other copy"])
def test_planted_faults_are_wrong(fault, activations):
    weight = weight_of(4, 128, True)
    given = problem(weight, ROWS)
    product = given.truth.astype(np.float32)
    assert given.error(product) <= 2.0**-20
    assert given.error(turned(product.T, 1).T, 1) <= 2.0**-20
    if fault == "sign":
        product[:, 5] *= -1
    elif fault == "element":
        product[1, 7] += given.scale[1, 7]
    elif fault == "tile":
        product[:2, 16:] = 0
    elif fault == "nan":
        product[2, 31] = np.nan
    elif fault == "scale":  # a group with the scale of its neighbour, or thereabouts
        product *= 1.5
    else:
        product = turned(product.T, 1).T
    assert not given.error(product) <= given.tolerance(activations)


def test_a_peer_that_leaves_activations_alone_is_not_of_the_int8_family():
    given = problem(weight_of(4, 128, True), ROWS)
    product = given.truth.astype(np.float32)
    row, bound = bench_qgemm.prepare("OpenVINO int8", lambda x: rotating([lambda: product]), given, every_copy=False)
    assert bound is None
    assert "did not round" in row["failed"]


def test_a_wrong_peer_is_not_timed():
    given = problem(weight_of(4, 128, True), ROWS)
    product = np.zeros(given.truth.shape, np.float32)
    row, bound = bench_qgemm.prepare("dense float32", lambda x: rotating([lambda: product]), given, every_copy=False)
    assert bound is None
    assert "WRONG" in row["failed"]


def test_limits_are_operations_or_bytes():
    machine = limits.Machine({}, {"float32": [1e9, 2e9], "bfloat16": [], "int8": [8e9], "bytes": [1e8]})
    case = {"M": 2, "N": 100, "K": 50, "weight_bytes": 2500, "state": "hot"}
    assert limits.limit_of(machine, case, "int8") == {"seconds": 20000 / 8e9, "by": "operations"}
    assert limits.limit_of(machine, case, "bfloat16")["seconds"] == 20000 / 2e9
    cold = case | {"state": "cold"}
    assert limits.limit_of(machine, cold, "int8") == {"seconds": 2500 / 1e8, "by": "bytes"}
    unknown = limits.Machine({}, {"float32": [1e9], "bfloat16": [], "int8": [], "bytes": []})
    assert limits.limit_of(unknown, cold, "int8") is None


def test_a_weight_is_cold_where_reading_it_matters():
    weight = weight_of(8, 0, True)
    machine = limits.Machine({}, {"float32": [1e12], "bfloat16": [], "int8": [], "bytes": [1e11]})
    most = weight.packed.nbytes * bench_qgemm.MOST_COPIES
    options = argparse.Namespace(states=["hot", "cold"], cold_bytes=most)
    assert bench_qgemm.is_cold(weight, 1, machine, options)
    assert not bench_qgemm.is_cold(weight, 100_000, machine, options)
    assert not bench_qgemm.is_cold(weight, 1, machine, argparse.Namespace(states=["cold"], cold_bytes=most + 1))
    assert not bench_qgemm.is_cold(weight, 1, machine, argparse.Namespace(states=["hot"], cold_bytes=most))


def test_ours_is_compared_with_the_best_of_the_family_and_of_the_type():
    medians = {"tqs-fast float32": 3.0, "tqs-fast int8": 0.1, "OpenVINO float32": 6.0, "dense bfloat16": 2.0}
    samples = {name: [seconds] * 5 for name, seconds in medians.items()}
    found = bench_qgemm.compare("tqs-fast float32", samples)
    assert {kind: row["best"] for kind, row in found.items()} == {"peer": "dense bfloat16", "alike": "OpenVINO float32"}
    assert found["peer"]["ratio"]["median"] == 1.5
    assert bench_qgemm.compare("tqs-fast int8", samples) == {}


def test_layers_by_name():
    assert [layer.shape for layer in find_layers("forecaster-1b")] == ["2048x2048", "8192x2048", "2048x8192"]
    (layer,) = find_layers("lorenz-gru:192x64")
    assert layer.read().shape == (192, 64)
    assert find_layers("3x5")[0].read().shape == (3, 5)
    with pytest.raises(ValueError, match="one of"):
        find_layers("nobody")
    with pytest.raises(ValueError, match="has layers"):
        find_layers("lorenz-gru:1x1")


def test_the_figure_is_the_same_every_time(tmp_path):
    figure = pytest.importorskip("qgemm.figure")
    contestants = {
        name: {"activations": ways.WAYS[name].activations, "median_seconds": 2e-3}
        for name in ("tqs-fast int8", "OpenVINO int8", "dense bfloat16")
    }
    ratio = {"median": 1.0, "low": 0.9, "high": 1.2}
    case = {
        "layer": "8x8", "N": 8, "K": 8, "bits": 4, "group_size": 32, "threads": 2, "contestants": contestants,
        "limits": {"int8": {"seconds": 1e-3, "by": "bytes"}, "float32": None, "bfloat16": None},
        "ours": {"tqs-fast int8": {"peer": {"best": "OpenVINO int8", "ratio": ratio}}},
    }  # fmt: skip
    results = [case | {"M": rows, "state": state} for rows in (1, 4) for state in ("hot", "cold")]
    document = {"machine": {"cpu": "any", "isa": "avx2", "commit": "0"}, "results": results}
    texts = []
    for _ in range(2):
        figure.draw(document, str(tmp_path / "figure.svg"))
        texts.append((tmp_path / "figure.svg").read_text())
    assert texts[0] == texts[1]
    assert "OpenVINO int8" in texts[0]
