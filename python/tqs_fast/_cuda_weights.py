"""Variants of weights that lie on a CUDA device, made there: no copy of them passes through host memory."""

from __future__ import annotations

import torch

from tqs_fast._native import core

# Precision in csrc/backend/operand.h
_PRECISIONS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def on_device(tensor: torch.Tensor) -> bool:
    """Whether these functions take the tensor."""
    return tensor.is_cuda


def brought(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """The tensor on the device that weights are brought to (`engine="native:cuda"`); None: where it is."""
    return tensor if device is None else tensor.to(device)


def noisy(
    weight: torch.Tensor, *, seed: int, stream: int, scale: float, begin: int = 0, count: int | None = None
) -> torch.Tensor:
    """The weight with `scale` times elements 0 ... count - 1 of a stream of normal numbers on [begin, begin + count).

    Summed in float64 and rounded (to 16 bits by way of float32, as torch does): the bits of the same sum with
    `tqs_fast.kernels.normal` on the CPU.
    """
    before = weight.detach().contiguous()
    after = torch.empty_like(before)
    number, work = _place(weight)
    core.add_noise_cuda(
        from_=before.data_ptr(),
        to=after.data_ptr(),
        precision=_PRECISIONS[weight.dtype],
        elements=before.numel(),
        begin=begin,
        count=before.numel() - begin if count is None else count,
        scale=scale,
        seed=seed,
        stream=stream,
        device=number,
        work=work,
    )
    return after


def normal(weight: torch.Tensor, *, seed: int, stream: int) -> torch.Tensor:
    """As many normal numbers as the weight has elements, float32 in its shape and on its device."""
    zeros = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    return noisy(zeros, seed=seed, stream=stream, scale=1.0)


def rounded(weight: torch.Tensor, *, bits: int, group_size: int, symmetric: bool, search: str) -> torch.Tensor:
    """The float32 values that `bits`-bit storage of a finite weight `[N, ...]` stands for, in its shape.

    The bits of `tqs_fast.kernels.pack` and `dequantize`, whose arguments these are.
    """
    before = weight.detach().float().contiguous()
    after = torch.empty_like(before)
    number, work = _place(weight)
    core.round_cuda(
        weights=before.data_ptr(),
        values=after.data_ptr(),
        rows=before.shape[0],
        columns=before[0].numel(),
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        mse=search == "mse",
        device=number,
        stream=work,
    )
    return after


def _place(tensor: torch.Tensor) -> tuple[int, int]:
    """Device number, and the caller's stream there: torch gives memory back in its order."""
    return tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream
