#!/usr/bin/env bash
# Build on a machine with an NVIDIA GPU, run the GPU tests, check the CUDA kernels with compute-sanitizer, then measure
# them. Offline and within ten minutes (on 16 cores). Needs nvcc and a Python with torch (CUDA), numpy, pybind11,
# scikit-build-core, cmake and ninja; other dependencies are taken from a folder of wheels where they are missing:
#   pip download --only-binary :all: --no-deps -d wheels scipy rich typer safetensors pytest pytest-xdist execnet ...
#       (for that machine's Python)
#   pip wheel --no-deps -w wheels gemlite; pip download --no-deps -d wheels humming-kernels jvp-flash-attention   (peers, where wanted)
#   bash bench/gpu.sh [folder for results]
#   bash bench/gpu.sh [folder for results] long    instead: what torch.compile and a billion parameters take, ten more
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-${OUT:-bench/results}}"
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if [ -d wheels ]; then python3 -m pip install --quiet --no-index --no-deps wheels/*.whl; fi
# For this GPU alone: 9.0 is compiled as 90a (its own instructions).
architecture="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)"
if [ "$architecture" = 90 ]; then architecture=90a; fi
python3 -m pip install --quiet --no-build-isolation --no-deps -Ccmake.define.TQS_CUDA=ON \
    -Ccmake.define.TQS_CUDA_ARCHITECTURES="$architecture" .
failed=0
long="${2:-}"
step() {  # name of the log, seconds, command: what fails or runs out of time is said, and the rest still runs
    local log="$out/$1" seconds="$2"
    shift 2
    timeout "$seconds" "$@" 2>&1 | tee "$log" || { echo "failed or out of time: $*" | tee -a "$log"; failed=1; }
}
if [ -n "$long" ]; then
    step rollout_long.txt 270 python3 bench/bench_rollout.py --device cuda --rounds 3 --out "$out/rollout_cuda_long.json"
    for dtype in float32 bfloat16; do
        step "forecaster_$dtype.txt" 80 python3 bench/gpu/score_forecaster.py --dtype "$dtype" \
            --out "$out/score_forecaster_$dtype.json"
    done
    step attention_causal.txt 35 python3 bench/gpu/attention.py --causal --out "$out/attention_causal_cuda.json"
    step forecaster_streamed.txt 80 python3 bench/gpu/score_forecaster.py --stream --methods residual --bits 4 \
        --count 4 --horizon 4 --out "$out/score_forecaster_streamed.json"
    exit "$failed"
fi
step cuda_tests.txt 160 python3 -m pytest -q -p no:cacheprovider -n 8 tests/test_kernels_cuda.py \
    tests/test_cuda_{attention_torch,engine,half,python,rows,weights,streaming}.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step "cuda_$tool.txt" 35 compute-sanitizer --tool "$tool" --error-exitcode 1 python3 bench/gpu/sanitized.py
    done
fi
step cuda_bench.txt 70 python3 bench/bench_cuda.py --out "$out/cuda.json" --seconds 50
if python3 -c "import gemlite" 2>/dev/null || python3 -c "import humming" 2>/dev/null; then
    step cuda_peers.txt 40 python3 bench/bench_cuda.py --peers --out "$out/cuda_peers.json"
fi
step attention.txt 35 python3 bench/gpu/attention.py --out "$out/attention_cuda.json"
step rollout_bench.txt 60 python3 bench/bench_rollout.py --device cuda --rounds 3 --out "$out/rollout_cuda.json" \
    --ways native "func steps" differences
step forecaster.txt 50 python3 bench/gpu/score_forecaster.py --methods residual --bits 4 --out "$out/score_forecaster.json"
exit "$failed"
