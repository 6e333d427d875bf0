"""The include and import rules of csrc/README.md and of the package, read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "tqs_fast"

# ---------------------------------------------------------------- C++

SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
BACKENDS = ("cpu", "cuda", "no_cuda")
ISA_FOLDERS = sorted(path.parent.name for path in (CSRC / "cpu").glob("*/table.cpp"))
# What a folder may include beside itself and the standard library.
MAY_INCLUDE = {
    "core": (),
    "backend": ("core/", "quant/format.h"),
    "quant": ("core/", "backend/"),
    "program": ("core/", "backend/", "quant/"),
    "rollout": ("core/", "backend/", "program/"),
    "growth": ("core/", "backend/", "program/", "rollout/"),
    "bindings": ("core/", "backend/", "quant/", "program/", "rollout/", "growth/"),
    **{
        name: (
            *("core/", "backend/kernel_table.h", "backend/program_kernels.h", "backend/place.h", "backend/device.h"),
            *("quant/format.h", "quant/codes.h"),
        )
        for name in BACKENDS
    },
}


def includes(path: Path) -> list[tuple[str, bool]]:
    """(name, quoted) of each include."""
    return [
        (name, mark == '"')
        for mark, name in re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', path.read_text(), re.MULTILINE)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_follow_the_rules(path):
    folder = path.relative_to(CSRC).parts[0]
    isa = path.parent.name if path.parent.name in ISA_FOLDERS else None
    assert folder in MAY_INCLUDE, f"csrc/{folder} has no include rule; add one here and in csrc/README.md"
    for name, quoted in includes(path):
        if quoted:
            assert (CSRC / name).is_file(), f"{name} is not named from csrc/"
            allowed = (f"{folder}/", *MAY_INCLUDE[folder])
            assert name.startswith(allowed), f"csrc/{folder} must not include {name}"
            named_isa = name.split("/")[1] if name.startswith("cpu/") else None
            assert isa is None or named_isa not in ISA_FOLDERS or named_isa == isa, f"{isa} must not include {name}"
        else:
            assert folder == "bindings" or not name.startswith(("pybind11", "Python.h")), f"{name} outside bindings/"
            assert folder == "cuda" or not name.startswith("cuda"), f"{name} outside cuda/"
            assert isa or name not in ("immintrin.h", "arm_neon.h"), "intrinsics outside the ISA folders"
            outside = "/" in name and not name.startswith("sys/")  # of the operating system
            assert folder != "core" or not outside, f"core must include only the standard library, not {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_no_preprocessor_test_for_cuda(path):
    for line in path.read_text().splitlines():
        assert not re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b.*CUDA", line), line


def test_isa_folders_have_the_same_files():
    names = {isa: {path.name for path in (CSRC / "cpu" / isa).iterdir()} - {"vector.h"} for isa in ISA_FOLDERS}
    assert len(names) == 4
    assert all(files == names["scalar"] for files in names.values()), names


def test_a_backend_and_its_twin_define_the_same_functions():
    def defined(path: Path) -> set[str]:
        return set(re.findall(r"^[\w:]+ (\w+)\([^;{}]*\{", path.read_text(), re.MULTILINE))

    assert defined(CSRC / "cuda/table.cpp") == defined(CSRC / "no_cuda/table.cpp")


# ---------------------------------------------------------------- Python

# Data flows left to right. A package imports those before it and the foundation, never one after it.
FLOW = (
    "systems",
    "capture",
    "engines",
    "growth",
    "scoring",
    "allocation",
    "search",
    "compensation",
    "rewriting",
    "recovery",
    "exporting",
    "reporting",
    "cli",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Full names of imported modules; with `top_level` only those that run when the module is imported."""
    tree = ast.parse(path.read_text())
    if top_level:
        nodes: list[ast.AST] = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    else:
        nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    own = path.relative_to(PACKAGE).parts[0]
    if path == PACKAGE / "__init__.py":
        return  # the front door exports everything
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "tqs_fast" or len(parts) == 1:
            continue
        if own in FLOW:
            later = FLOW[FLOW.index(own) + 1 :]
            assert parts[1] not in later, f"{own} must not import {name}"
        else:
            assert parts[1] not in FLOW, f"{module_name(path)} is below all of {FLOW} and must not import {name}"


def test_modules_import_each_other_in_no_circle():
    """Also none of imports within functions or for types: what needs such a detour has its flow the wrong way round."""
    names = {module_name(path): path for path in MODULES if path != PACKAGE / "__init__.py"}
    assert "tqs_fast.recovery.figures" in names

    def module(name: str) -> str:  # imported is a module, or something in it
        return name if name in names else name.rpartition(".")[0]

    graph = {name: {module(other) for other in imported(path)} & names.keys() for name, path in names.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_only_the_door_imports_the_compiled_module():
    for path in MODULES:
        if path.name != "_native.py":
            assert not any(name.startswith("tqs_fast._core") for name in imported(path)), path


def test_the_oracle_imports_nothing_else_of_ours():
    for path in (PACKAGE / "reference").glob("*.py"):
        ours = [name for name in imported(path) if name.startswith("tqs_fast")]
        assert all(name.startswith("tqs_fast.reference.") for name in ours), path


def test_torch_is_imported_only_where_needed():
    light = [PACKAGE / name for name in ("kernels.py", "errors.py", "_formats.py", "_packing.py", "_product.py")]
    light += (PACKAGE / "allocation").glob("*.py")
    for path in light:
        assert not any(name.split(".")[0] == "torch" for name in imported(path, top_level=True)), path
