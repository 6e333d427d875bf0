#!/usr/bin/env bash
# Build on a machine with an NVIDIA GPU, run the GPU tests, check the CUDA kernel against float64, then measure it.
# Offline and within ten minutes. Needs nvcc and a Python with torch (CUDA), numpy, pybind11, scikit-build-core, cmake and
# ninja; other dependencies are taken from a folder of wheels where they are missing:
#   pip download --only-binary :all: --no-deps -d wheels scipy rich typer safetensors pytest ... (for that machine's Python)
#   bash bench/gpu.sh [folder for results]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-${OUT:-bench/results}}"
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if [ -d wheels ]; then python3 -m pip install --quiet --no-index --no-deps wheels/*.whl; fi
python3 -m pip install --quiet --no-build-isolation --no-deps -Ccmake.define.TQS_CUDA=ON .
python3 -m pytest -q -p no:cacheprovider tests/test_kernels_cuda.py
python3 bench/bench_cuda.py --out "$out/cuda.json"
