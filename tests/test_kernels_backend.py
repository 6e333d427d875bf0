"""Which kernels run, threads, forks, and what info reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from checking import same_bits
from tqs_fast import kernels
from tqs_fast._version import __version__
from tqs_fast.errors import ArgumentError

AVAILABLE = [isa for isa, runs in kernels.info()["isas"].items() if runs]


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_info_is_json_and_names_this_build():
    info = json.loads(json.dumps(kernels.info()))
    assert info["version"] == __version__
    assert info["isas"]["scalar"] is True
    assert info["isa"] in AVAILABLE
    assert info["threads"] >= 1
    assert info["cuda"]["built"] == bool(info["cuda"]["architectures"])
    assert info["kernels"] == kernels.list()


def test_every_isa_has_every_kernel():
    rows = {(row["isa"], row["op"], row["format"]) for row in kernels.list()}
    assert len(rows) == len(kernels.list())
    for isa in kernels.info()["isas"]:
        for op in ("quantize", "dequantize", "prepack", "qgemm_float32", "qgemm_bfloat16"):
            for bits in kernels.FORMATS:
                assert (isa, op, f"int{bits}") in rows


def test_use_isa_switches_and_refuses():
    for isa in AVAILABLE:
        kernels.use_isa(isa)
        assert kernels.isa() == isa
    with pytest.raises(ArgumentError, match=r"isa=sse9 is not an instruction set of this build; available: scalar"):
        kernels.use_isa("sse9")
    assert kernels.isa() == AVAILABLE[-1], "a refused name must change nothing"


def test_environment_chooses_the_isa():
    show = "from tqs_fast import kernels; print(kernels.isa())"
    assert run_python(show, TQS_ISA="scalar").stdout.strip() == "scalar"
    refused = run_python(show, TQS_ISA="mmx")
    assert refused.returncode == 1
    assert "ArgumentError: [use_isa] TQS_ISA=mmx is not an instruction set of this build" in refused.stderr


FORK = """
import os, sys
import numpy as np
from tqs_fast import kernels
generator = np.random.default_rng(0)
packed = kernels.pack(generator.standard_normal((200, 64)).astype(np.float32), bits=4)
x = generator.standard_normal((32, 64)).astype(np.float32)
before = kernels.qgemm(x, packed, threads=4)
child = os.fork()
same = np.array_equal(kernels.qgemm(x, packed, threads=4), before)
if child == 0:
    os._exit(0 if same else 1)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_threads_work_after_fork():
    done = run_python(FORK)
    assert done.returncode == 0, done.stderr


def test_calls_from_many_python_threads():
    generator = np.random.default_rng(0)
    packed = kernels.pack(generator.standard_normal((130, 96)).astype(np.float32), bits=4, group_size=32)
    xs = [generator.standard_normal((16, 96)).astype(np.float32) for _ in range(60)]
    expected = [kernels.qgemm(x, packed, threads=1) for x in xs]
    with ThreadPoolExecutor(5) as executor:
        results = list(executor.map(lambda x: kernels.qgemm(x, packed, threads=3), xs))
    for got, want in zip(results, expected, strict=True):
        same_bits(got, want)
