"""The native library built for the check programs of tests/native, each file with the flags that CMake gives it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted((ROOT / "tests/native").glob("*.cpp"))
WORKERS = min(4, os.cpu_count() or 1)
# The file of csrc/cpu that knows the processor, by an ISA that only such a processor has.
FEATURES = {"avx2": "cpu_features.cpp", "neon": "cpu_features_aarch64.cpp"}


@dataclass(frozen=True)
class Target:
    """A compiler, the ISA folders that it builds, and what starts its programs (nothing, or an emulator)."""

    compiler: str
    isas: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    def sources(self) -> list[Path]:
        """The library without rollouts and bindings."""
        folders = [
            "core",
            "backend",
            "quant",
            "program",
            "program/ops",
            *(f"cpu/{isa}" for isa in self.isas),
            "no_cuda",
        ]
        found = [path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.cpp"))]
        found.append(ROOT / "csrc/cpu/tables.cpp")
        return found + [ROOT / "csrc/cpu" / name for isa, name in FEATURES.items() if isa in self.isas]

    def command(self, source: Path, *flags: str) -> list[str]:
        isa = source.parent.name if source.parent.parent.name == "cpu" else ""
        own = (source.parent / "flags.txt").read_text().split() if isa in self.isas else []
        if source.name == "tables.cpp":
            own = [f"-DTQS_ISA_{name.upper()}" for name in self.isas]
        if source.name == "rng.cpp" or (isa and source.stem in ("quantize", "gates", "elementwise", "rows")):
            own.append("-ffp-contract=off")
        return [self.compiler, "-std=c++20", f"-I{ROOT / 'csrc'}", str(source), *own, *flags]

    def compile_object(self, source: Path, folder: Path, *flags: str) -> Path:
        target = folder / f"{source.parent.parent.name}_{source.parent.name}_{source.stem}.o"
        done = subprocess.run(
            self.command(source, "-c", "-o", str(target), *flags), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return target

    def link_and_run(self, program: Path, shared: list[Path], *flags: str) -> subprocess.CompletedProcess[str]:
        target = program.with_suffix("")
        link = [self.compiler, *flags, str(program), *map(str, shared), "-o", str(target), "-pthread"]
        done = subprocess.run(link, capture_output=True, text=True, check=False)
        if done.returncode:
            return done
        # Leaks are not looked for: the thread pool lives as long as the process, on purpose.
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TQS_ISA": ""}
        return subprocess.run(
            [*self.launcher, str(target)], capture_output=True, text=True, check=False, env=environment
        )


def host() -> Target:
    """Without a compiler, `compiler` is empty."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or ""
    machine = platform.machine()
    vectors = {"x86_64": ("avx2", "avx512"), "AMD64": ("avx2", "avx512"), "aarch64": ("neon",), "arm64": ("neon",)}
    return Target(compiler, ("scalar", *vectors.get(machine, ())))


def assert_nothing_to_mix_up(isa: str, compiled: Path, nm: str) -> None:
    """The object defines no symbol that another ISA's files could be linked to (csrc/README.md)."""
    listing = subprocess.run([nm, "-C", "--defined-only", str(compiled)], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        _address, kind, name = line.split(maxsplit=2)
        own = kind.islower() or name.startswith(f"tqs::{isa}::") or name == f"tqs::{isa}_table"
        assert own, f"{compiled.name} defines {name}, which other files could be linked to"
        assert kind not in "WVu", f"{compiled.name} defines {name} weakly"
