"""Each kind of job in a folder, small: what tests of killing run, also in processes of their own.

python long_jobs.py KIND FOLDER
"""

import functools
import sys
from pathlib import Path

if __name__ == "__main__":  # started alone: other tests' modules are found as pytest finds them
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import caseback as cb
import shelf
from brief_training import briefly_trained
from caseback.decode.vocabulary.activating import activating_inputs
from caseback.jobs.budget import override
from caseback.localize.inputs import random_subsets, retrained_outcomes

CORPUS = shelf.ids((9, 4, 17, 2, 11, 6, 12, 9, 5, 8, 14), seed=3)


def sweep(folder):
    model = shelf.model("llama")
    variants = [cb.Add("resid_pre", torch.ones(model.d_model) * (i + 1), layer=i % 3, pos=i % 4) for i in range(40)]
    with override(sweep_shard_tokens=12):
        model.sweep(shelf.ids((6, 4)), variants, cb.logit_diff(3, 5), folder=folder, token_budget=12, threads=1)


def retraining(folder):
    train = functools.partial(briefly_trained, lr=0.1)
    retrained_outcomes(train, random_subsets(6, 12), [([5, 6], [7])], folder=folder, threads=1)


def activating(folder):
    options = {"layer": 1, "top": 4, "length": 8, "batch": 2, "shard_tokens": 8, "threads": 1}
    activating_inputs(shelf.model("llama"), CORPUS, "mlp_post", store=folder, **options)


KINDS = {job.__name__: job for job in (sweep, retraining, activating)}

if __name__ == "__main__":
    KINDS[sys.argv[1]](sys.argv[2])
