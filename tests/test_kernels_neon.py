"""The NEON kernels on another processor: cross-compiled without a warning, and run under QEMU against the scalar ones.

Needs a cross compiler and, to run them, an emulator (Debian: g++-12-aarch64-linux-gnu, qemu-user-static).
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from native_building import PROGRAMS, ROOT, WORKERS, Target, assert_nothing_to_mix_up

PREFIX = "aarch64-linux-gnu-"
COMPILER = next(filter(None, map(shutil.which, [f"{PREFIX}g++", *(f"{PREFIX}g++-{n}" for n in range(20, 10, -1))])), "")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or ""
TARGET = Target(COMPILER, ("scalar", "neon"), (EMULATOR, "-cpu", "max"))
FOLDER = sorted((ROOT / "csrc/cpu/neon").glob("*.cpp"))
WARNINGS = ("-Wall", "-Wextra", "-Werror")
LISTS_ISAS = """
#include <cstdio>
#include "backend/backend.h"
int main() {
    for (const tqs::IsaRow& row : tqs::list_isas()) std::printf("%s %d\\n", tqs::isa_name(row.isa), row.available);
}
"""

pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a cross compiler for AArch64")


@pytest.mark.skipif(bool(EMULATOR), reason="the run under emulation compiles the same files")
@pytest.mark.parametrize("source", FOLDER, ids=lambda path: path.stem)
def test_the_folder_compiles_without_a_warning(source):
    done = subprocess.run(
        TARGET.command(source, "-fsyntax-only", *WARNINGS), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[list[Path], list[Path]]:
    """Objects of the library, and those of the check programs and of one that lists the ISAs."""
    if not EMULATOR:
        pytest.skip("needs qemu-aarch64")
    folder = tmp_path_factory.mktemp("aarch64")
    lister = folder / "lists_isas.cpp"
    lister.write_text(LISTS_ISAS)

    # -O1: the emulator takes longer for what is not optimised than the compiler for optimising it.
    def compiled(path: Path) -> Path:
        return TARGET.compile_object(path, folder, "-O1", *WARNINGS)

    library = sorted(TARGET.sources(), key=lambda path: path.stem not in ("attention", "qgemm"))  # the longest first
    with ThreadPoolExecutor(WORKERS) as executor:
        objects = list(executor.map(compiled, [*library, *PROGRAMS, lister]))
    return objects[: len(library)], objects[len(library) :]


def test_the_kernels_agree_with_the_scalar_ones_under_emulation(built):
    library, (*programs, lister) = built
    assert TARGET.link_and_run(lister, library, "-static").stdout == "scalar 1\nneon 1\n"
    with ThreadPoolExecutor(WORKERS) as executor:
        outcomes = list(executor.map(lambda program: TARGET.link_and_run(program, library, "-static"), programs))
    for source, outcome in zip(PROGRAMS, outcomes, strict=True):
        assert outcome.returncode == 0, f"{source.name}: {outcome.stdout}{outcome.stderr}"


def test_a_processor_without_dot_products_runs_the_scalar_kernels(built):
    library, (*_programs, lister) = built
    first = replace(TARGET, launcher=(EMULATOR, "-cpu", "cortex-a53"))
    outcome = first.link_and_run(lister, library, "-static")
    assert (outcome.returncode, outcome.stdout) == (0, "scalar 1\nneon 0\n"), outcome.stderr


def test_the_folder_leaves_nothing_for_the_linker_to_mix_up(built):
    nm = shutil.which(f"{PREFIX}nm")
    if not nm:
        pytest.skip(f"needs {PREFIX}nm")
    library, _programs = built
    own = [compiled for compiled in library if compiled.name.startswith("cpu_neon_")]
    assert len(own) == len(FOLDER)
    for compiled in own:
        assert_nothing_to_mix_up("neon", compiled, nm)
