"""Sanitizer run of the CPU kernels, and the linkage rule of the ISA folders (csrc/README.md); needs a compiler."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from native_building import PROGRAMS, ROOT, WORKERS, assert_nothing_to_mix_up, host
from tqs_fast import kernels

HOST = host()
# Kernels of native programs: templates so large that those of an ISA that is neither the scalar one nor the best run
# without sanitizers.
PROGRAM_KERNELS = ("attention", "elementwise", "rows", "products", "movement")
CHECKED = {"scalar", *[isa for isa in HOST.isas if kernels.info()["isas"].get(isa)][-1:]}
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Compiles in a third of the time. Checks are calls; and a null pointer that is used, or a vector that is not aligned,
# ends the run without help.
LEAN = ("--param=asan-instrumentation-with-call-threshold=0", "-fno-sanitize=null,alignment,pointer-overflow")

pytestmark = pytest.mark.skipif(not HOST.compiler, reason="needs a C++ compiler")


def test_kernels_run_clean_under_sanitizers(tmp_path):
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    if subprocess.run(
        [HOST.compiler, *SANITIZERS, str(probe), "-o", str(tmp_path / "probe")], capture_output=True
    ).returncode:
        pytest.skip("the compiler has no sanitizer libraries")

    def compiled(path: Path) -> Path:
        isa = path.parent.name
        plain = isa in HOST.isas and isa not in CHECKED and path.stem in PROGRAM_KERNELS
        flags = () if plain else (*SANITIZERS, "-g1", *(LEAN if path.stem == "attention" else ()))
        return HOST.compile_object(path, tmp_path, "-O0", *flags)

    others = HOST.sources()
    others.sort(key=lambda path: (path.stem != "attention", path.stem not in PROGRAM_KERNELS))  # the longest first
    with ThreadPoolExecutor(WORKERS) as executor:
        objects = list(executor.map(compiled, [*others, *PROGRAMS]))
        shared, own = objects[: len(others)], objects[len(others) :]
        outcomes = list(executor.map(lambda program: HOST.link_and_run(program, shared, *SANITIZERS), own))
    for source, outcome in zip(PROGRAMS, outcomes, strict=True):
        assert outcome.returncode == 0, f"{source.name}: {outcome.stdout}{outcome.stderr}"


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
@pytest.mark.parametrize("isa", HOST.isas[1:])
def test_isa_files_leave_nothing_for_the_linker_to_mix_up(tmp_path, isa):
    files = sorted((ROOT / "csrc/cpu" / isa).glob("*.cpp"))
    with ThreadPoolExecutor(WORKERS) as executor:
        objects = executor.map(
            lambda source: HOST.compile_object(source, tmp_path, "-O1", "-Wno-maybe-uninitialized"), files
        )
    for compiled in objects:
        assert_nothing_to_mix_up(isa, compiled, "nm")
