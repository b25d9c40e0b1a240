"""The benchmark that needs a GPU runs on a processor at tiny shapes, and says so where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
ROWS = ["residual sweep", "z sweep", "run, nothing read", "run, pattern and z", "attribution patching, z and mlp_out"]
ROWS += ["EAP, all edges", "EAP-IG, 5 steps", "integrated gradients, 50 steps"]

SUMS = ["decode", "decode, and its gradients", "the same, one feature everywhere", "a step of TopK"]


def printed(*options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300).stdout


def test_tiny_shapes_on_a_processor_fill_the_whole_table():
    out = printed("--small", "--rounds", "1", "--columns", "Llama")
    assert "these numbers mean nothing" in out and "GPT-2" not in out
    lines = {name: next(line for line in out.splitlines() if line.startswith(name)) for name in ROWS}
    for name, line in lines.items():
        times = [float(word.removesuffix("ms")) for word in line[len(name) :].split() if word.endswith("ms")]
        assert len(times) == 2 and min(times) > 0, line
    assert "<= 1.5 floor" in lines["residual sweep"] and "<= 8 fb" in lines["EAP-IG, 5 steps"]
    assert "peak memory above the weights not measured, target <= 8 GiB" in out


def test_sparse_sums_are_timed_by_torch_and_where_there_is_a_gpu_by_kernels():
    out = printed("--small", "--rounds", "1", "--columns", "sparse")
    lines = [line for line in out.splitlines() if line.endswith("not measured")]
    assert [line[:38].strip() for line in lines] == SUMS and "Llama" not in out
    assert all(float(line[38:].split("ms")[0]) > 0 for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the whole table would be measured")
def test_without_a_gpu_it_says_so():
    assert printed() == "no GPU here: nothing was measured (--small tries the program on a processor)\n"
