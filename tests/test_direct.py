"""The door for methods that measure directly: what they are given, and what becomes of what they return."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

import tqs_fast as tqs
from networks import cells_system
from tqs_fast.scoring.direct import DirectMethod, Measured
from tqs_fast.scoring.methods import rounding_energies

SEEN = []


@dataclass(frozen=True)
class Energy:
    """Energy of the rounding error, the same for every initial condition."""

    bits: tuple[int, ...] = (2, 4)
    quantizer: tqs.Quantizer = field(default_factory=tqs.Quantizer)

    @property
    def meaning(self):
        return "relative energy of the rounding error"

    @property
    def keeps_states(self):
        return False

    def measure(self, task, reference, report):
        SEEN.append((task, reference))
        report(1, 1)
        rows = [task.rows(block) for block in range(len(task.blocks))]
        energy = np.stack([rounding_energies(r, self.quantizer, self.bits) for r in rows])
        return Measured(
            samples=np.repeat(energy[:, :, None], task.states.count, axis=2),
            curve=energy[:, :, None],
            relative_error=energy,
            gain=np.ones(len(rows)),
            probe_stderr=np.zeros_like(energy),
            provenance={"engine": {"name": "none", "reason": "the weights alone", "serial": {}}},
        )


def test_a_direct_method_yields_the_same_kind_of_table(tmp_path):
    system, progress = cells_system(), []
    assert isinstance(Energy(), DirectMethod)
    assert not isinstance(tqs.Residual(), DirectMethod)
    arguments = {"horizon": 6, "initial": tqs.Attractor(count=3, spin_up=4), "row_blocks": 3, "layers": "gru.*"}
    table = tqs.score(system, method=Energy(), progress=lambda *done: progress.append(done), **arguments)
    lanes = tqs.score(system, method=tqs.Residual(bits=(2, 4)), **arguments)
    assert table.layers == lanes.layers
    np.testing.assert_array_equal(table.relative_error, lanes.relative_error)
    np.testing.assert_allclose(table.damage, lanes.relative_error, rtol=1e-15)  # a mean over equal samples
    assert np.isnan(table.growth_rate).all()
    assert progress == [(1, 1)]
    task, reference = SEEN[-1]
    assert (task.states.count, task.horizon, reference.outputs.shape) == (3, 6, (6, 3, 3))
    assert task.rows(1).shape == table.layers[1].shape
    assert table.provenance["method"]["name"] == "Energy"
    assert table.provenance["method"]["meaning"] == Energy().meaning
    assert lanes.provenance["method"]["meaning"] == tqs.Residual().meaning
    assert table.provenance["engine"]["name"] == "none"
    table.save(tmp_path / "table.json")
    assert tqs.Sensitivity.load(tmp_path / "table.json").to_json() == table.to_json()
    assert tqs.allocate(table, average_bits=3.5).bytes > 0


def test_its_checkpoint_belongs_to_one_run(tmp_path):
    arguments = {"horizon": 4, "initial": tqs.Attractor(count=2, spin_up=2), "checkpoint": tmp_path / "run"}
    system = cells_system()
    first = tqs.score(system, method=Energy(), **arguments)
    assert tqs.score(system, method=Energy(), **arguments).to_json() == first.to_json()
    with pytest.raises(tqs.CheckpointError, match="method"):
        tqs.score(system, method=Energy(bits=(2, 8)), **arguments)


def test_an_unknown_engine_is_refused():
    with pytest.raises(tqs.ArgumentError, match="engine must be one of"):
        tqs.score(cells_system(), method=Energy(), engine="fast", horizon=4, initial=tqs.Attractor(count=2, spin_up=2))
