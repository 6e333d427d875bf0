"""Question: how many instructions does a product with packed weights take?

Instructions of one product on the AVX2 kernels, rows rewritten included, as callgrind counts them: the same in every
run, however busy the machine, so that a change of the kernels can be compared without a quiet one. (Callgrind knows no
AVX-512.) A product is run once and three times; half of the difference is one product. Shown per 1000 multiply-adds.

Needs valgrind and a C++ compiler.

    python bench/bench_instructions.py
    python bench/bench_instructions.py --rows 1 --bits 4 --out quick.json
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / "bench/instructions/qgemm.cpp"), str(ROOT / "csrc/core/aligned.cpp")]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
SIZE = (256, 512)  # N, K


def build(folder: Path, bits: int, int8: bool) -> Path:
    """The driver for one format and form of the activations."""
    program = folder / f"qgemm_{bits}_{int(int8)}"
    flags = (ROOT / "csrc/cpu/avx2/flags.txt").read_text().split()
    defines = [f"-DCOUNT_BITS={bits}", f"-DCOUNT_INT8={int(int8)}"]
    command = [COMPILER, "-std=c++20", "-O3", "-DNDEBUG", *flags, *defines, f"-I{ROOT / 'csrc'}", *SOURCES]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def instructions(program: Path, arguments: list[int]) -> int:
    """Of the whole run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        sys.exit(f"callgrind did not say what it collected:\n{done.stderr[-1000:]}")
    return int(found.group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4, 8], choices=(2, 4, 8))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--groups", type=int, nargs="+", default=[128, 32])
    parser.add_argument("--out", default="instructions")
    options = parser.parse_args()
    if not COMPILER or not shutil.which("valgrind"):
        sys.exit("needs valgrind and a C++ compiler")
    n, k = SIZE
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for bits in options.bits:
            for int8 in (False, True):
                program = build(Path(folder), bits, int8)
                for group_size in options.groups:
                    for rows in options.rows:
                        once, thrice = (instructions(program, [n, k, rows, group_size, times]) for times in (1, 3))
                        one = (thrice - once) // 2
                        results.append(
                            {"bits": bits, "activation": "int8" if int8 else "float", "group_size": group_size,
                             "M": rows, "N": n, "K": k, "instructions": one}
                        )  # fmt: skip
                        print(
                            f"int{bits} {'int8 ' if int8 else 'float'} groups {group_size:3} M {rows:3}: {one:10} "
                            f"instructions, {1e3 * one / (rows * n * k):6.1f} per 1000 multiply-adds",
                            flush=True,
                        )
    compiler = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    print("written to", harness.write(options.out, {"compiler": compiler, "isa": "avx2", "results": results}))


if __name__ == "__main__":
    main()
