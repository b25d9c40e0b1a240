"""What all tests share: the assets' folder, two threads, fixed seeds, no network."""

import os

# Before torch and transformers are imported, here or in a doctest of src: nothing may reach for a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CASEBACK_CACHE"] = ""  # lists are made anew
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import language_model
from tiers import (  # noqa: F401 - hooks, found here by their names
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    pytest_sessionstart,
)

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture
def hooks_only_look(monkeypatch):
    """Let a test's own hooks stay on a model while it is swept: they count what passes and change nothing."""
    for place in ("sweeping.clean", "sweeping.side_by_side"):
        monkeypatch.setattr(f"caseback.model.{place}.expect_no_user_hooks", lambda *_, **__: None)
    monkeypatch.setattr("caseback.model.running.measure.hooked_by_user", lambda *_: None)


# One run is like the next: examples follow from the test alone, and a slow machine fails none.
hypothesis.settings.register_profile("caseback", deadline=None, derandomize=True)
hypothesis.settings.load_profile("caseback")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data, from CASEBACK_ASSETS or `../shared` beside the checkout."""
    named = os.environ.get("CASEBACK_ASSETS")
    if named:
        if not Path(named).is_dir():
            pytest.fail(f"CASEBACK_ASSETS={named} is no folder; unset it to skip the tests that need assets.")
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared"
    if not beside.is_dir():
        pytest.skip(f"needs the test assets: set CASEBACK_ASSETS to their folder, or put them at {beside}")
    return beside


@pytest.fixture(scope="session")
def smollm_folder(assets) -> Path:
    """The folder of SmolLM2-135M-Instruct, a language model that people use, with its tokenizer."""
    return language_model.converted(assets / "models" / "smollm2-135m")


@pytest.fixture(scope="session")
def smollm(smollm_folder):
    """SmolLM2-135M-Instruct, loaded once for all tests of a process: none may change it."""
    import caseback as cb

    return cb.load(smollm_folder)


@pytest.fixture(scope="session")
def fresh_python() -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a program in an interpreter that has imported nothing yet."""
    source = Path(__file__).resolve().parents[1] / "src"
    paths = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))

    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )

    return run


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def plain(monkeypatch):
    """For commands: no --debug left over from another test or the environment, no colours, 100 columns, no progress.

    Lines of progress come where a command takes ten seconds, which under load any does.
    """
    monkeypatch.setattr("caseback.jobs.progress.EVERY", 3600.0)
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def small(assets):
    """The folder of a small real model."""
    return str(assets / "models" / "stories260K")
