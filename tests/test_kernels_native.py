"""Sanitizer run of the CPU kernels, and the linkage rule of the ISA folders (csrc/README.md); needs a compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tqs_fast import kernels

ROOT = Path(__file__).resolve().parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or ""
X86 = platform.machine() in ("x86_64", "AMD64")
ISAS = ("scalar", "avx2", "avx512") if X86 else ("scalar",)
# Kernels of native programs: templates so large that those of an ISA that is neither the scalar one nor the best run
# without sanitizers.
PROGRAM_KERNELS = ("attention", "elementwise", "rows", "products", "movement")
CHECKED = {"scalar", *[isa for isa in ISAS if kernels.info()["isas"].get(isa)][-1:]}
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Compiles in a third of the time. Checks are calls; and a null pointer that is used, or a vector that is not aligned,
# ends the run without help.
LEAN = ("--param=asan-instrumentation-with-call-threshold=0", "-fno-sanitize=null,alignment,pointer-overflow")
WORKERS = min(4, os.cpu_count() or 1)

pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")


def compile_object(source: Path, folder: Path, *flags: str) -> Path:
    isa = source.parent.name if source.parent.parent.name == "cpu" else ""
    own = (source.parent / "flags.txt").read_text().split() if isa in ISAS else []
    if source.name == "tables.cpp":
        own = [f"-DTQS_ISA_{name.upper()}" for name in ISAS]
    if source.name == "rng.cpp" or (isa and source.stem in ("quantize", "gates", "elementwise", "rows")):
        own.append("-ffp-contract=off")
    target = folder / f"{isa}_{source.parent.name}_{source.stem}.o"
    command = [COMPILER, "-std=c++20", f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(target), *own, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def sources() -> list[Path]:
    folders = ["core", "backend", "quant", "program", "program/ops", *(f"cpu/{isa}" for isa in ISAS), "no_cuda"]
    found = [path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.cpp"))]
    found.append(ROOT / "csrc/cpu/tables.cpp")
    if X86:
        found.append(ROOT / "csrc/cpu/cpu_features.cpp")
    return found


def link_and_run(program: Path, shared: list[Path]) -> subprocess.CompletedProcess[str]:
    target = program.with_suffix("")
    link = [COMPILER, *SANITIZERS, str(program), *map(str, shared), "-o", str(target), "-pthread"]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    if done.returncode:
        return done
    # Leaks are not looked for: the thread pool lives as long as the process, on purpose.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TQS_ISA": ""}
    return subprocess.run([str(target)], capture_output=True, text=True, check=False, env=environment)


def test_kernels_run_clean_under_sanitizers(tmp_path):
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    if subprocess.run(
        [COMPILER, *SANITIZERS, str(probe), "-o", str(tmp_path / "probe")], capture_output=True
    ).returncode:
        pytest.skip("the compiler has no sanitizer libraries")

    def compiled(path: Path) -> Path:
        isa = path.parent.name
        plain = isa in ISAS and isa not in CHECKED and path.stem in PROGRAM_KERNELS
        flags = () if plain else (*SANITIZERS, "-g1", *(LEAN if path.stem == "attention" else ()))
        return compile_object(path, tmp_path, "-O0", *flags)

    programs, others = sorted((ROOT / "tests/native").glob("*.cpp")), sources()
    others.sort(key=lambda path: (path.stem != "attention", path.stem not in PROGRAM_KERNELS))  # the longest first
    with ThreadPoolExecutor(WORKERS) as executor:
        objects = list(executor.map(compiled, [*others, *programs]))
        shared, own = objects[: len(others)], objects[len(others) :]
        outcomes = list(executor.map(lambda program: link_and_run(program, shared), own))
    for source, outcome in zip(programs, outcomes, strict=True):
        assert outcome.returncode == 0, f"{source.name}: {outcome.stdout}{outcome.stderr}"


@pytest.mark.skipif(not X86 or not shutil.which("nm"), reason="needs an ISA folder and nm")
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "scalar"])
def test_isa_files_leave_nothing_for_the_linker_to_mix_up(tmp_path, isa):
    files = sorted((ROOT / "csrc/cpu" / isa).glob("*.cpp"))
    with ThreadPoolExecutor(WORKERS) as executor:
        objects = executor.map(
            lambda source: compile_object(source, tmp_path, "-O1", "-Wno-maybe-uninitialized"), files
        )
    for source, compiled in zip(files, objects, strict=True):
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", str(compiled)], capture_output=True, text=True, check=True
        )
        for line in listing.stdout.splitlines():
            _address, kind, name = line.split(maxsplit=2)
            own = kind.islower() or name.startswith(f"tqs::{isa}::") or name == f"tqs::{isa}_table"
            assert own, f"{source.name} defines {name}, which other files could be linked to"
            assert kind not in "WVu", f"{source.name} defines {name} weakly"
