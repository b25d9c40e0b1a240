"""Retraining in a folder: outcomes of models trained by hand, the same bytes from any number of workers."""

import functools

import numpy as np
import one_at_a_time as alone
import pytest
import torch

import caseback as cb
import shelf
from brief_training import briefly_trained
from caseback.errors import CasebackError, LoadError
from caseback.jobs.job import Job
from caseback.jobs.working import seeded_by
from caseback.localize.inputs import random_subsets, retrained_outcomes

SUBSETS, QUERIES = random_subsets(6, 5), [([5, 6], [7]), ([4], [2, 3])]


def kept_in(folder, train=None, subsets=SUBSETS, queries=QUERIES, metric=None, **options):
    train = train or functools.partial(briefly_trained, lr=0.1)
    return retrained_outcomes(train, subsets, queries, metric, folder=folder, threads=1, **options)


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_outcomes_in_a_folder_are_those_of_models_trained_by_hand(tmp_path):
    torch.manual_seed(12345)  # whatever was drawn before
    outcomes = kept_in(tmp_path)
    assert len(bytes_in(tmp_path)) == 5
    job = Job.open(tmp_path)
    for variant, subset in enumerate(SUBSETS):
        with seeded_by(job.digest(variant)):
            hf = briefly_trained(np.flatnonzero(subset).tolist(), lr=0.1).hf
        by_hand = [alone.log_likelihood(hf, [5, 6, 7], 2), alone.log_likelihood(hf, [4, 2, 3], 1)]
        assert np.allclose(outcomes.values[variant], torch.stack(by_hand).detach().numpy(), atol=1e-6)
    assert outcomes.values.std(0).min() > 1e-3  # the subsets make a difference


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_trains_to_the_same_bytes(workers, tmp_path):
    kept_in(tmp_path / "alone")
    many = kept_in(tmp_path / "many", workers=workers)
    assert bytes_in(tmp_path / "many") == bytes_in(tmp_path / "alone")
    assert np.array_equal(many.values, kept_in(tmp_path / "alone").values)


def test_only_what_is_missing_is_trained_again_and_more_subsets_may_follow(tmp_path):
    trained = []

    def train(kept):
        trained.append(kept)
        return briefly_trained(kept)

    kept_in(tmp_path, train)
    before = bytes_in(tmp_path)
    Job.open(tmp_path).path(2).unlink()
    damaged = Job.open(tmp_path).path(4)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    more = np.concatenate([SUBSETS, random_subsets(6, 1, seed=7)])
    kept_in(tmp_path, train, more)
    assert trained[5:] == [np.flatnonzero(more[i]).tolist() for i in (2, 5, 4)]
    after = bytes_in(tmp_path)
    assert len(after) == 6 and {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("queries", {"queries": [([5, 6], [9])]}),
        ("metric", {"metric": cb.logit(3)}),
        ("training", {"train": functools.partial(briefly_trained, lr=0.2)}),
        ("training", {"train": lambda kept: shelf.model("gpt2")}),
        ("other inputs .from shard 0 on", {"subsets": random_subsets(6, 5, seed=1)}),
    ],
)
def test_a_folder_of_another_retraining_is_refused(what, changed, tmp_path):
    kept_in(tmp_path)
    before = bytes_in(tmp_path)
    with pytest.raises(LoadError, match=what):
        kept_in(tmp_path, **changed)
    assert bytes_in(tmp_path) == before


def test_a_training_that_cannot_be_sent_is_refused_in_words(tmp_path):
    with pytest.raises(CasebackError, match="cannot be sent to other processes.*use workers=1"):
        kept_in(tmp_path, lambda kept: shelf.model("gpt2"), workers=2)
    with pytest.raises(CasebackError, match="other workers need a folder"):
        kept_in(None, workers=2)
    with pytest.raises(CasebackError, match="kept in one of them"):
        kept_in(tmp_path, checkpoint=tmp_path / "a")


@pytest.mark.parametrize("lr", [0.1, 0.2])
def test_a_checkpoint_depends_on_what_a_partial_gives_a_training(lr, tmp_path):
    path = tmp_path / "kept.npz"

    def keep(lr):
        train = functools.partial(briefly_trained, lr=lr)
        retrained_outcomes(train, SUBSETS, QUERIES, checkpoint=path)

    keep(0.1)
    if lr == 0.1:
        keep(lr)
    else:
        with pytest.raises(LoadError, match="what differs: training"):
            keep(lr)
