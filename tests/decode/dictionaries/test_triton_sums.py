"""When Triton's kernels are used; their numbers (``triton_checks``), in a process that may interpret them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from caseback.decode.dictionaries import bags

FOLDER = Path(__file__).parent
GPU = SimpleNamespace(is_cuda=True, device=torch.device("cpu"))  # in name only
NEEDS = "needs Triton (pip install triton: 286 MB to fetch, 1 GB on disk, so no extra of this package brings it)"


def run_checks(file: str, **environment: str) -> None:
    """In a process of their own: Triton asks once, when it is imported, whether it is to interpret."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)]
    own = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **own, **environment}, timeout=850
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason=NEEDS)
def test_interpreted_kernels_are_the_plain_sums():
    run_checks("triton_checks.py", TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason=NEEDS)
def test_kernels_are_built_for_gpus_that_are_not_here():
    run_checks("triton_builds.py", TRITON_INTERPRET="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_kernels_on_a_gpu_are_the_plain_sums():
    run_checks("triton_checks.py", TRITON_INTERPRET="0")


@pytest.fixture
def why_not(monkeypatch):
    """What says whether kernels run on a device, asked anew."""
    bags._why_not.cache_clear()
    monkeypatch.setattr(bags, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    yield monkeypatch
    bags._why_not.cache_clear()


def uses(like: Any) -> bool:
    return bags.uses_triton(like)


def test_kernels_are_for_gpus_and_can_be_switched_off(why_not):
    built = []
    kernels = SimpleNamespace(sums=lambda *given: built.append("sums"), dots=lambda *given: built.append("dots"))
    why_not.setattr(bags, "_kernels", lambda: kernels)
    assert not uses(torch.zeros(1)) and not built
    why_not.setenv(bags.SWITCH, "0")
    assert not uses(GPU) and not built
    why_not.delenv(bags.SWITCH)
    assert uses(GPU) and uses(GPU) and built == ["sums", "dots"]


def test_without_triton_or_on_an_old_gpu_torch_sums(why_not):
    why_not.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert not uses(GPU)
    bags._why_not.cache_clear()
    why_not.setattr(bags, "find_spec", lambda name: None)
    assert not uses(GPU)


def test_kernels_that_cannot_be_built_are_warned_of_once(why_not):
    def broken(*given: Any) -> None:
        raise RuntimeError("Failed to find C compiler\nand more")

    why_not.setattr(bags, "_kernels", lambda: SimpleNamespace(sums=broken))
    with pytest.warns(UserWarning, match=r"builds no kernels here \(RuntimeError: Failed to find C compiler\)") as seen:
        assert not uses(GPU) and not uses(GPU)
    assert len(seen) == 1 and "CASEBACK_TRITON=0" in str(seen[0].message)
