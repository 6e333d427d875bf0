"""load_system: built-in names, user factories, one clear error each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tqs_fast.errors import ArgumentError
from tqs_fast.systems import load_system

FACTORY = """
import torch
from tqs_fast.systems import Recurrent

number = 3

def factory(rate=0.5):
    module = torch.nn.Linear(1, 1)
    module.weight.data.fill_(rate)
    return Recurrent(module, step=lambda m, s: (m(s), m(s)), initial_state=lambda n, g: torch.randn(n, 1, generator=g))

def wrong():
    return 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and the import system as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("my_system", "my_broken", "my_pkg", "my_pkg.deep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_factory_in_the_current_directory(here: Path) -> None:
    (here / "my_system.py").write_text(FACTORY)
    assert load_system("my_system:factory").module.weight.item() == 0.5
    assert load_system("my_system:factory", rate=0.25).module.weight.item() == 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_nothing:factory", "no module named 'my_nothing' in the current directory or installed"),
        ("my_system.deep:factory", "no module named 'my_system.deep'"),
        ("my_system:absent", r"module my_system has no 'absent'; define `def absent\(\) -> System`"),
        ("my_system:number", "my_system:number is a int, not a function"),
        ("my_system:wrong", "my_system:wrong must return a System, got int"),
        ("lorenz", r"unknown system 'lorenz'; choose lorenz-gru, fracast, silero-vad, \"package.module:factory\" or"),
        ("my_system:", "unknown system 'my_system:'"),
    ],
)
def test_errors(here: Path, name: str, message: str) -> None:
    (here / "my_system.py").write_text(FACTORY)
    with pytest.raises(ArgumentError, match=rf"^\[load_system\] {message}"):
        load_system(name)


def test_a_module_that_fails_to_import_something_else_says_so(here: Path) -> None:
    (here / "my_broken.py").write_text("import my_missing_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="my_missing_dependency"):
        load_system("my_broken:factory")


def test_built_in_takes_no_options() -> None:
    with pytest.raises(ArgumentError, match=r"lorenz-gru takes no options, got \['rate'\]"):
        load_system("lorenz-gru", rate=1)


@pytest.mark.parametrize("name", ["fracast", "silero-vad"])
def test_missing_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tqs_fast.systems.fracast", "tqs_fast.systems.silero_vad"):
        monkeypatch.setattr(f"{module}.find_spec", lambda package: None)
    with pytest.raises(ArgumentError, match=rf'^\[load_system\] {name} needs .*pip install "tqs-fast\[models\]"$'):
        load_system(name)
