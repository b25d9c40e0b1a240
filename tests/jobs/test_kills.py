"""A job that is killed, with no chance to clean up, goes on from its checkpoint and gives what it would have given."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import caseback as cb

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
