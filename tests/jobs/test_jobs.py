"""The contract of long work: the same bytes from any number of workers, after any trouble, and nothing of another job."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from counting_job import Squares, contents, finished, plan

from caseback.errors import CasebackError, LoadError, WriteError
from caseback.jobs import claims as claims_module
from caseback.jobs.claims import Claims
from caseback.jobs.job import Job, Plan
from caseback.jobs.launch import launch
from caseback.jobs.status import status_of, statuses
from caseback.jobs.working import place_among_workers, work_on


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_comes_to_the_same_bytes(workers, tmp_path):
    expected = contents(finished(tmp_path / "alone").folder)
    assert len(expected) == 8
    job = Job.begin(tmp_path / "many", plan())
    launch(job, Squares(), workers=workers)
    assert contents(job.folder) == expected
    assert not os.listdir(job.folder / "claims") and not os.listdir(job.folder / "failed")


def test_what_is_done_is_not_done_again(tmp_path):
    mark = tmp_path / "mark"
    mark.mkdir()
    job = Job.begin(tmp_path / "job", plan())
    for shard in (1, 4):
        job.keep(shard, Squares()(job, shard))
    work_on(job, Squares(mark))
    assert sorted(int(path.name.split("-")[0]) for path in mark.iterdir()) == [0, 2, 3, 5, 6, 7]
    work_on(Job.begin(tmp_path / "job", plan()), Squares(mark))
    assert len(list(mark.iterdir())) == 6


def test_two_walks_at_once_share_the_shards(tmp_path):
    mark = tmp_path / "mark"
    mark.mkdir()
    job = Job.begin(tmp_path / "job", plan())
    walks = [
        threading.Thread(target=work_on, args=(job, Squares(mark, seconds=0.05)), kwargs={"worker": n, "workers": 2})
        for n in range(2)
    ]
    for walk in walks:
        walk.start()
    for walk in walks:
        walk.join(timeout=60)
    assert not job.undone() and len(list(mark.iterdir())) == 8


CHANGES = {
    "kind": {"kind": "cubes"},
    "power": {"options": {"power": 3}},
    "model": {"depends_on": {"model": "other"}},
    "threads": {"threads": 2},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_job_is_refused_by_what_differs(what, tmp_path):
    from dataclasses import replace

    before = contents(finished(tmp_path).folder)
    with pytest.raises(LoadError, match=f"what differs: {what}"):
        Job.begin(tmp_path, replace(plan(), **CHANGES[what]))
    assert contents(tmp_path) == before


def test_more_inputs_at_the_end_keep_what_is_done_and_other_inputs_are_refused(tmp_path):
    finished(tmp_path)
    longer = Job.begin(tmp_path, plan(11))
    assert longer.undone() == [8, 9, 10]
    changed = Plan("squares", {"power": 2}, {"model": "m"}, ["inputs of 0", "others", *map(str, range(9))])
    with pytest.raises(LoadError, match="other inputs .from shard 1 on"):
        Job.begin(tmp_path, changed)
    with pytest.raises(LoadError, match="other inputs"):
        Job.begin(tmp_path, plan(3))
    with pytest.raises(LoadError, match="holds other things"):
        (tmp_path / "else").mkdir()
        (tmp_path / "else" / "notes.txt").write_text("mine")
        Job.begin(tmp_path / "else", plan())
    with pytest.raises(WriteError, match="choose another folder"):
        Job.begin(tmp_path / "else" / "notes.txt", plan())


def _flipped(data):
    at = len(data) - 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE = {
    "flipped": _flipped,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "of another": lambda data: data,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_result_is_never_read(how, tmp_path):
    job = finished(tmp_path)
    source = job.path(2 if how == "of another" else 3)
    job.path(3).write_bytes(DAMAGE[how](source.read_bytes()))
    with pytest.raises(LoadError):
        job.read(3)


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_plan_is_refused(how, tmp_path):
    path = finished(tmp_path).folder / "job.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"m"', b'"n"') if how == "flipped" else DAMAGE[how](data))
    with pytest.raises(LoadError, match="cannot be read"):
        Job.open(tmp_path)


def test_a_shard_that_fails_is_written_down_and_tried_again(tmp_path):
    job = Job.begin(tmp_path, plan())
    with pytest.raises(CasebackError, match="shard 3 is not to be"):
        work_on(job, Squares(fails=[3]))
    assert job.undone() == [3, 4, 5, 6, 7]
    status = status_of(job)
    assert status.done == 3 and status.failed == [{"shard": 3, "error": "shard 3 is not to be"}]
    work_on(job, Squares())
    assert (
        not job.undone()
        and not list(job.failures())
        and contents(tmp_path) == contents(finished(tmp_path / "b").folder)
    )


def test_processes_say_what_failed_and_who_was_killed(tmp_path):
    job = Job.begin(tmp_path / "fails", plan())
    with pytest.raises(CasebackError, match="shards are not done; shard 5: shard 5 is not to be"):
        launch(job, Squares(fails=[5]), workers=2)
    job = Job.begin(tmp_path / "dies", plan(2))
    with pytest.raises(CasebackError, match="process . was killed by SIGKILL.*the same call goes on"):
        launch(job, Squares(dies=[0, 1]), workers=2)
    launch(job, Squares())
    assert not job.undone()


def test_a_killed_workers_shard_is_taken_over(tmp_path):
    job = Job.begin(tmp_path, plan())
    # a process that holds shard 0 and is killed in it
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=_environment())
    assert holder.stdout.readline().strip() == b"held"
    claim = job.claims.of(0)
    assert claim.pid == holder.pid and not claim.stale
    assert status_of(job).claimed[0]["shard"] == 0
    with job.claims.taken(0) as mine:
        assert not mine
    holder.kill()
    holder.wait(timeout=60)
    assert job.claims.of(0).stale and status_of(job).stale[0]["pid"] == holder.pid
    work_on(job, Squares())
    assert not job.undone() and not os.listdir(job.folder / "claims")


HOLD = """
import sys, time
from caseback.jobs.job import Job
with Job.open(sys.argv[1]).claims.taken(0) as mine:
    print("held" if mine else "not held", flush=True)
    time.sleep(600)
"""


def _environment():
    import caseback

    source = [str(Path(caseback.__file__).parent.parent), str(Path(__file__).parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(source), "OMP_NUM_THREADS": "1"}


def test_a_claim_that_nobody_renews_goes_stale_and_one_that_is_renewed_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "RENEWED", 0.05)
    monkeypatch.setattr(claims_module, "STALE", 0.4)
    claims = Claims(tmp_path)
    elsewhere = json.dumps({"host": "another machine", "pid": 1})
    claims.path(0).write_text(elsewhere)
    with claims.taken(0) as mine:
        assert not mine
    time.sleep(0.6)
    with claims.taken(0) as mine, claims.taken(1) as other:
        assert mine and other
        time.sleep(0.9)  # longer than what makes a claim stale: it was renewed
        assert not claims.of(0).stale and claims.of(0).pid == os.getpid()
    assert claims.of(0) is None


def test_a_torn_claim_is_somebodys_until_it_is_stale(tmp_path, monkeypatch):
    claims = Claims(tmp_path)
    claims.path(0).write_text('{"host": "ano')
    with claims.taken(0) as mine:
        assert not mine
    monkeypatch.setattr(claims_module, "STALE", -1.0)
    with claims.taken(0) as mine:
        assert mine


WORKER = """
import sys
from counting_job import Squares
from caseback.jobs.job import Job
from caseback.jobs.working import work_on
work_on(Job.open(sys.argv[1]), Squares(seconds=0.02), worker=int(sys.argv[2]), workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_killed_at_ten_random_moments_with_another_worker_beside(tmp_path):
    import random

    expected = contents(finished(tmp_path / "calm").folder)
    draw = random.Random(0)
    job = Job.begin(tmp_path / "rough", plan())
    kills = 0
    for _ in range(10):
        pair = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(job.folder), str(n)], env=_environment())
            for n in range(2)
        ]
        # the moment is drawn from the time after the first sign of work
        began, at = time.monotonic(), set(contents(job.folder))
        while time.monotonic() - began < 60 and any(p.poll() is None for p in pair):
            if set(contents(job.folder)) != at or os.listdir(job.folder / "claims"):
                break
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        for process in pair:
            kills += process.poll() is None
            process.kill()
            process.wait(timeout=60)
        for shard in range(len(job)):
            if job.done(shard):
                assert torch.equal(job.read(shard)["x"], torch.full((3,), float(shard) ** 2))
        if not job.undone():
            for path in list((job.folder / "shards").iterdir())[:4]:
                path.unlink()
    assert kills >= 10
    work_on(job, Squares())
    assert contents(job.folder) == expected


def test_a_full_disk_keeps_what_was_finished(tmp_path, monkeypatch):
    from caseback.jobs import job as job_module

    job, real, written = Job.begin(tmp_path, plan()), job_module.write_tensors, []

    def write(path, tensors, metadata=None):
        if len(written) == 3:
            raise WriteError(f"cannot write {path}: No space left on device")
        written.append(path)
        real(path, tensors, metadata)

    monkeypatch.setattr(job_module, "write_tensors", write)
    with pytest.raises(WriteError, match="No space left"):
        work_on(job, Squares())
    monkeypatch.undo()
    assert job.undone() == [3, 4, 5, 6, 7] and not os.listdir(tmp_path / "claims")
    work_on(job, Squares())
    assert not job.undone()


def test_how_far_jobs_are(tmp_path):
    finished(tmp_path / "one")
    Job.begin(tmp_path / "two", plan())
    assert [(status.done, status.shards) for status in statuses(tmp_path)] == [(8, 8), (0, 8)]
    with pytest.raises(LoadError, match="holds no job"):
        list(statuses(tmp_path / "one" / "shards"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, (3, 8)),
        ({"RANK": "x"}, (0, 1)),
    ],
)
def test_a_launcher_says_which_worker_this_is(environment, expected, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert place_among_workers() == expected
    assert place_among_workers(1, 3) == (1, 3)
