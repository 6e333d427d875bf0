"""What bench_cuda.py compares, and how it times it."""
