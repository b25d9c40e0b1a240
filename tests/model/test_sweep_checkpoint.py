"""An interrupted sweep goes on where it stopped, and another sweep's file is refused."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import LoadError


class Interrupted(Exception):
    """Stands for a power cut."""


def counting(fail_after=None):
    """A metric that counts the prompts it measures and fails when it has measured enough."""
    measured = []

    def value(logits):
        if fail_after is not None and len(measured) >= fail_after:
            raise Interrupted
        measured.extend(range(len(logits)))
        return logits[:, 3] - logits[:, 5]

    return cb.function(value, name="difference"), measured


VARIANTS = [[cb.Zero("z", layer=i, head=h)] for i in range(3) for h in range(4)]


def test_resuming_measures_only_what_is_missing(tmp_path):
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids((9, 7)))
    whole = model.sweep(tokens, VARIANTS, cb.function(lambda x: x[:, 3] - x[:, 5], name="difference"))
    path = tmp_path / "sweep.npz"
    failing, _ = counting(fail_after=10)
    with pytest.raises(Interrupted):
        model.sweep(tokens, VARIANTS, failing, token_budget=40, checkpoint=path)
    done = int(np.load(path)["done"].sum())
    assert 0 < done < len(VARIANTS) * 2
    steady, measured = counting()
    resumed = model.sweep(tokens, VARIANTS, steady, token_budget=40, checkpoint=path)
    assert len(measured) == 2 + len(VARIANTS) * 2 - done  # the clean run's two, then the missing ones
    np.testing.assert_allclose(resumed.values, whole.values, rtol=1e-5)
    again, measured = counting()
    model.sweep(tokens, VARIANTS, again, checkpoint=path)
    assert len(measured) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.npz"]


@pytest.mark.parametrize("what", ["prompts", "edits", "value", "metric", "target", "model"])
def test_another_sweeps_checkpoint_is_refused(tmp_path, what):
    path = tmp_path / "sweep.npz"
    value = torch.ones(32)
    given = {
        "model": shelf.model("llama"),
        "prompts": shelf.ids((9, 7)),
        "edits": [cb.Zero("z", layer=1), cb.Add("resid_post", value, layer=0)],
        "metric": cb.logit(3),
    }
    other = {
        "prompts": {"prompts": shelf.ids((9, 7), seed=1)},
        "edits": {"edits": [cb.Zero("z", layer=2), cb.Add("resid_post", value, layer=0)]},
        "value": {"edits": [cb.Zero("z", layer=1), cb.Add("resid_post", value * 2, layer=0)]},
        "metric": {"metric": cb.prob(3)},
        "target": {"metric": cb.logit(4)},
        "model": {"model": shelf.model("mistral")},
    }[what]
    run = lambda model, prompts, edits, metric: model.sweep(prompts, edits, metric, checkpoint=path)  # noqa: E731
    run(**given)
    run(**given)
    with pytest.raises(
        LoadError, match=r"belongs to another sweep \(other prompts, edits, metric or model\): remove it"
    ):
        run(**{**given, **other})


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "sweep.npz"
    path.write_text("not an archive")
    with pytest.raises(LoadError, match="is not a sweep checkpoint"):
        shelf.model("llama").sweep(shelf.ids(), VARIANTS, cb.logit(3), checkpoint=path)
    assert path.read_text() == "not an archive"


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "sweep.npz"
    np.savez(path, values=np.array([object()], dtype=object), done=np.zeros(1), fingerprint="x")
    with pytest.raises(LoadError):
        shelf.model("llama").sweep(shelf.ids(), VARIANTS, cb.logit(3), checkpoint=path)
