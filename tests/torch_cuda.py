"""A CUDA device for a PyTorch without CUDA (native/torch_cuda/device.cpp), and what of `torch.cuda` the package, its
tests and benches use. For builds with TQS_CUDA=EMULATED; conftest.py installs it where TQS_EMULATED_TORCH is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent / "native/torch_cuda/device.cpp"
MEMORY = 8 << 30


def install() -> None:
    """Before torch is imported: its first look at what devices there are is its last."""
    assert "torch" not in sys.modules, "torch was imported before the device could be made"
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "device.so"
        compiler = os.environ.get("CXX") or shutil.which("c++") or "c++"
        command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-isystem{root}/include"]
        command += [f"-isystem{root}/include/torch/csrc/api/include", str(SOURCE), "-o", str(library)]
        command += [f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", "-ltorch_cpu", "-lc10"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(root / "lib/libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    _replace()


class Stream:
    """All there is: whatever is enqueued is done at once."""

    cuda_stream = 0

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Stream) -> None: ...


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self._time = 0.0

    def record(self) -> None:
        self._time = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end._time - self._time)


class Graph:
    """Repeats the operators that were called while it was captured, into the tensors that they returned then."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def replay(self) -> None:
        import torch
        from torch.utils._pytree import tree_leaves

        for function, args, kwargs, before in self.calls:
            after = function(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _replace() -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    capturing: list[Graph] = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            capturing[-1].calls.append((function, args, kwargs or {}, result))
            return result

    @contextlib.contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        capturing.append(graph)
        try:
            with Recording():
                yield
        finally:
            capturing.pop()

    def nothing() -> Any:
        """A function of its own for every name: torch.compile tells functions apart by what they are."""
        return lambda *_, **__: None

    functions: dict[str, Any] = {
        "Event": Event,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "graph": capture,
        "device": lambda _: contextlib.nullcontext(),
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": lambda _=None: Stream(),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: bool(capturing),
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda _=None: "emulated",
        "get_device_capability": lambda _=None: (9, 0),
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "mem_get_info": lambda _=None: (MEMORY, MEMORY),
        "memory_allocated": lambda _=None: 0,
        "max_memory_allocated": lambda _=None: 0,
        **{name: nothing() for name in ("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats")},
        "set_stream": nothing(),
        **{name: nothing() for name in ("manual_seed", "manual_seed_all", "set_rng_state")},
    }
    for name, function in functions.items():
        setattr(torch.cuda, name, function)
