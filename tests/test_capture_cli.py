"""`tqs-fast info --capture`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FACTORY = """
import torch
import tqs_fast as tqs

def odd():
    def step(module, state):
        state = torch.special.i0(module(state))
        return state, state

    start = lambda count, generator: torch.randn(count, 3, generator=generator)
    return tqs.System(torch.nn.Linear(3, 3), step=step, initial_state=start, name="odd")

def mixing():
    def step(module, state):
        state = module(state) - state.mean(0, keepdim=True)
        return state, state

    start = lambda count, generator: torch.randn(count, 3, generator=generator)
    return tqs.System(torch.nn.Linear(3, 3), step=step, initial_state=start, name="mixing")
"""


def test_info_prints_a_program(run):
    document = json.loads(run("info", "--capture", "lorenz-gru", "--json").stdout)
    assert document["nodes"] == sum(document["kinds"].values())
    assert document["arena_bytes"] > 0
    assert any(line.endswith("out (aten.linear.default)") for line in document["program"])


REASONS = {
    "odd": ("aten.i0.default in step", "write it with others", 'use engine="torch"'),
    "mixing": ("mixes initial conditions", 'use engine="torch"'),
}


@pytest.mark.parametrize("factory", REASONS)
def test_info_says_why_a_step_is_refused(factory: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories.py").write_text(FACTORY)
    failed = run("info", "--capture", f"factories:{factory}", status=1)
    assert failed.stdout == ""
    message = failed.stderr.strip()
    assert message.count("\n") == 0
    assert all(part in message for part in (factory, *REASONS[factory])), message
