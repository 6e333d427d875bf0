"""One thread for torch; for an emulated GPU, its side of it, and an adversary's order of threads for every test; the
command-line program as a function."""

from __future__ import annotations

import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

# The threads of torch spin while they wait for one another: on cores that others use, too, a small operation then takes
# a time slice of the system (recovery's tests nine times as long). What has threads as its subject sets their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("TQS_EMULATED_TORCH"):
    import torch_cuda

    torch_cuda.install()

import emulated

# 0 is ascending order. A seed of the environment is that of every test.
GIVEN = os.environ.get("TQS_EMULATOR_SEED")
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7) if GIVEN is None else (int(GIVEN),)


FOLDER = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the first process; those that pytest-xdist starts find its folder
        config.stash[FOLDER] = tempfile.TemporaryDirectory()
        os.environ["TQS_EMULATOR_FOLDER"] = config.stash[FOLDER].name


def pytest_unconfigure(config: pytest.Config) -> None:
    if FOLDER in config.stash:
        config.stash[FOLDER].cleanup()


@pytest.fixture(autouse=True)
def schedule(request: pytest.FixtureRequest) -> None:
    if "cuda" in request.path.name:
        emulated.schedule(SEEDS[zlib.crc32(request.node.name.encode()) % len(SEEDS)])


@dataclass(frozen=True)
class Printed:
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """The command-line program in this process, which has torch already; what C++ prints is caught, too."""
    from tqs_fast.cli import main  # not before an emulated GPU is there

    def run(*arguments: str, status: int = 0) -> Printed:
        monkeypatch.setattr(sys, "argv", ["tqs-fast", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = Printed(*capfd.readouterr())
        assert left.value.code == status, printed.stderr
        return printed

    return run
