#!/usr/bin/env bash
# Build on a machine with an NVIDIA GPU, run the GPU tests, measure, then check the CUDA kernels with compute-sanitizer:
# what matters most first, should time run out. Offline and within ten minutes (on 16 cores). Needs nvcc and a Python
# with torch (CUDA), numpy, pybind11, scikit-build-core, cmake and ninja; other dependencies are taken from a folder of
# wheels where they are missing:
#   pip download --only-binary :all: --no-deps -d wheels scipy rich typer safetensors pytest pytest-xdist execnet ...
#       (for that machine's Python)
#   pip wheel --no-deps -w wheels gemlite; pip download --no-deps -d wheels humming-kernels jvp-flash-attention   (peers)
#   bash bench/gpu.sh [folder for results]
#   bash bench/gpu.sh [folder for results] long    instead: what torch.compile and a billion parameters take, ten more
# TQS_COMMIT says in the results what is measured, where there is no checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-${OUT:-bench/results}}"
long="${2:-}"
mkdir -p "$out"
export PATH="$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1
failed=0

build() {
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
    nvcc --version | tail -2
    if [ -d wheels ]; then python3 -m pip install --quiet --no-index --no-deps wheels/*.whl || true; fi
    # For this GPU alone: 9.0 is compiled as 90a (its own instructions).
    local architecture
    architecture="$(python3 -c "import torch; print(*torch.cuda.get_device_capability(), sep='')")"
    if [ "$architecture" = 90 ]; then architecture=90a; fi
    python3 -m pip install --quiet --no-build-isolation --no-deps -Ccmake.define.TQS_CUDA=ON \
        -Ccmake.define.TQS_CUDA_ARCHITECTURES="$architecture" .
    echo "built after $SECONDS s"
}

step() {  # seconds, command: what fails or runs out of time is said, and the rest still runs
    local seconds="$1" status=0
    shift
    echo "--- $*"
    timeout -k 5 "$seconds" "$@" || status=$?
    if [ "$status" != 0 ]; then echo "failed, or out of time (124): $status"; failed=1; fi
    echo "after $SECONDS s"
}

short() {
    local workers=()
    if python3 -c "import xdist" 2>/dev/null; then workers=(-n 8); fi
    # What other packages warn of is no failure here.
    step 160 python3 -m pytest -q -p no:cacheprovider -W default "${workers[@]}" tests/test_kernels_cuda.py \
        tests/test_cuda_{attention_torch,engine,half,python,rows,weights,streaming}.py
    step 60 python3 bench/bench_rollout.py --device cuda --rounds 3 --out "$out/rollout_cuda.json" \
        --ways native "func steps" differences
    step 35 python3 bench/gpu/attention.py --out "$out/attention_cuda.json"
    step 70 python3 bench/bench_qgemm.py --device cuda --out "$out/qgemm_cuda.json" --within 50
    step 50 python3 bench/gpu/score_forecaster.py --methods residual --bits 4 --out "$out/score_forecaster.json"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            step 35 compute-sanitizer --tool "$tool" --error-exitcode 1 python3 bench/gpu/sanitized.py
        done
    fi
    if python3 -c "import gemlite" 2>/dev/null || python3 -c "import humming" 2>/dev/null; then
        step 40 python3 bench/bench_qgemm.py --device cuda --peers --bits 4 \
            --out "$out/qgemm_cuda_peers.json" --within 25
    fi
}

long() {
    step 270 python3 bench/bench_rollout.py --device cuda --rounds 3 --out "$out/rollout_cuda_long.json"
    for dtype in float32 bfloat16; do
        step 80 python3 bench/gpu/score_forecaster.py --dtype "$dtype" --out "$out/score_forecaster_$dtype.json"
    done
    step 35 python3 bench/gpu/attention.py --causal --out "$out/attention_causal_cuda.json"
    step 80 python3 bench/gpu/score_forecaster.py --stream --methods residual --bits 4 \
        --count 4 --horizon 4 --out "$out/score_forecaster_streamed.json"
}

all() {
    build
    if [ -n "$long" ]; then long; else short; fi
    return "$failed"
}

all 2>&1 | tee "$out/gpu${long:+_long}.txt"  # as it goes, as every step writes its own JSON
