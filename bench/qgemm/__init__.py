"""Layers and contestants of bench_qgemm: one library per file.

`layers` names the weight matrices; `weight` is one of them packed, as everyone takes it, and the check of every result;
`contestant` says what a contestant is; `ours`, `torch_ways`, `onnx_runtime`, `open_vino` are the contestants, which
`ways` lists; `peaks` measures the machine, `limits` compares with it; `figure` draws the results. ONNX Runtime,
OpenVINO and matplotlib are imported by their files only.
"""
