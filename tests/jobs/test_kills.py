"""A job that is killed, with no chance to clean up, goes on from its checkpoint and gives what it would have given."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from long_jobs import KINDS

import caseback as cb
from caseback.jobs.job import Job

JOB = """
import sys
import caseback as cb

model = cb.load("meadow")
heads = [cb.Zero("z", layer=l, head=h, pos=p) for l in range(4) for h in range(4) for p in range(6)]
model.sweep("Mary and John went to the store", heads, cb.logit(" the"), token_budget=8, checkpoint=sys.argv[1])
print("done")
"""


def sweep(**how):
    model = cb.load("meadow")
    heads = [cb.Zero("z", layer=i, head=h, pos=p) for i in range(4) for h in range(4) for p in range(6)]
    return model.sweep("Mary and John went to the store", heads, cb.logit(" the"), token_budget=8, **how)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_a_killed_sweep_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "sweep"
    source = str(Path(cb.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    expected = sweep()
    job = subprocess.Popen([sys.executable, "-c", JOB, str(path)], env=environment, stdout=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while job.poll() is None and time.monotonic() < patience:
        if path.exists():
            job.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    assert job.wait(timeout=60) == -signal.SIGKILL and path.exists()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["sweep"]
    resumed = sweep(checkpoint=path)
    torch.testing.assert_close(torch.tensor(resumed.values), torch.tensor(expected.values), rtol=1e-5, atol=1e-5)


def contents(folder):
    """Every file of results, by its place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_a_job_killed_at_random_moments_with_another_worker_beside_comes_to_the_same_bytes(kind, tmp_path):
    KINDS[kind](tmp_path / "calm")
    expected, rough = contents(tmp_path / "calm"), tmp_path / "rough"
    source = [str(Path(cb.__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).with_name("long_jobs.py")), kind, str(rough)]
    draw, kills = random.Random(kind), 0
    for _ in range(4):
        pair = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
        before, patience = set(contents(rough)), time.monotonic() + 120
        while time.monotonic() < patience and any(process.poll() is None for process in pair):
            if set(contents(rough)) != before or any(rough.glob("claims/0*")):
                break
            time.sleep(0.001)
        time.sleep(draw.random() * 0.1)  # from the first sign of work on
        for process in pair:
            kills += process.poll() is None
            process.kill()
            process.wait(timeout=60)
        held = contents(rough)  # what is there is right
        assert all(expected[name] == data for name, data in held.items())
        if (rough / "job.json").exists() and not Job.open(rough).undone():
            for path in sorted((rough / "shards").iterdir())[::2]:
                path.unlink()
    assert kills >= 4
    KINDS[kind](rough)
    assert contents(rough) == expected
