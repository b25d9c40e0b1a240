"""Edits written to a file and read again do to a model what they did before, to the bit."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import caseback as cb
import shelf
from caseback.errors import EditError, LoadError

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2]]


def cases():
    d = 32
    rows = torch.randn(2, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "zero": cb.Zero("z", layer=0, head=1),
        "several heads": cb.Zero("z", layer=[0, 1], head=[0, -1], pos=[0, 2]),
        "one position per prompt": cb.Zero("resid_post", layer=0, pos=torch.tensor([1, 4])),
        "a slice": cb.Scale("mlp_out", 0.3, layer=1, pos=slice(1, None)),
        "a number": cb.Replace("resid_mid", 0.1, layer=1, unit=3),
        "a list": cb.Replace("resid_mid", [0.1, 1 / 3], layer=1, unit=[3, 4]),
        "an array": cb.Add("resid_pre", np.full(d, 0.25), layer=1),
        "a tensor": cb.Add("resid_pre", rows[0], layer=1, pos=-1),
        "a mean": cb.Mean("mlp_out", rows[1], layer=0),
        "noise": cb.Noise("embed", 0.2, seed=3),
        "a subspace": cb.Project("resid_post", rows, layer=0, keep=True),
        "an affine map": cb.Affine("resid_post", rows, rows.flip(0), rows[0], rows[1], layer=0),
        "a tilt": cb.Tilt("resid_post", rows[0], layer=0),
        "a fading value": cb.Fade("resid_post", rows[0], layer=1, decay=0.5),
        "a turn": cb.Rotate("resid_post", rows, 30.0, layer=1, by=True, aligned=True),
        "one prompt": cb.Zero("z", layer=0, prompt=1),
        "the given text": cb.Zero("z", layer=0, pos="prompt"),
        "an edge": cb.Knockout(layer=1, head=0, query=-1, key=0),
        "an edge at the pattern": cb.Knockout(layer=1, head=0, query=-1, key=0, renormalise=False),
    }


@pytest.fixture(scope="module")
def model():
    return shelf.model("gpt2")


@pytest.mark.parametrize("case", cases())
def test_an_edit_does_the_same_after_it_was_kept(case, model, tmp_path):
    edit, path = cases()[case], tmp_path / "edits.safetensors"
    cb.save_edits(edit, path)
    (read,) = cb.load_edits(path)
    before, after = (model.run(TEXTS, edits=e).logits for e in (edit, read))
    assert torch.equal(before, after)
    assert not torch.equal(before, model.run(TEXTS).logits)
    assert read.describe() == edit.describe()


def test_several_keep_their_order_and_stand_under_a_model(model, tmp_path):
    edits, path = list(cases().values()), tmp_path / "edits.safetensors"
    cb.save_edits(edits, path, provenance={"by": "hand"})
    read = cb.load_edits(path)
    assert [type(e) for e in read] == [type(e) for e in edits]
    once = [e for e in edits if not isinstance(e.pos, torch.Tensor)]
    again = [e for e in read if not isinstance(e.pos, torch.Tensor)]
    assert torch.equal(model.edited(once).run(TEXTS).logits, model.edited(again).run(TEXTS).logits)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["made"]) == {"by": "hand"}


def test_what_a_file_cannot_hold_is_refused(model, tmp_path):
    path = tmp_path / "edits.safetensors"
    run = model.run(TEXTS, read=["z"])
    for edit in (
        cb.Resample("z", run, layer=0),
        cb.Mean("z", run, layer=0),
        cb.Apply("z", torch.neg, layer=0),
    ):
        with pytest.raises(EditError, match="which a file cannot"):
            cb.save_edits(edit, path)
    with pytest.raises(EditError, match="a str is not an edit"):
        cb.save_edits(["z"], path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edit": "Apply"}, "Apply"),
        ({"edit": "Zero", "site": "z", "function": "os.system"}, "function"),
        ({"edit": "Replace", "site": "z", "value": {"tensor": "no"}}, "'no'"),
        ({"edit": "Replace", "site": "z", "value": {"call": "f"}}, "call"),
        ({"site": "z"}, "'edit'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(change, says, tmp_path):
    path = tmp_path / "edits.safetensors"
    cb.save_edits(cb.Add("z", torch.ones(8), layer=0), path)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file(load_file(path), path, {**facts, "edits": json.dumps([change])})
    with pytest.raises(LoadError, match=says):
        cb.load_edits(path)


def test_a_file_of_another_kind_names_what_reads_it(tmp_path):
    path = tmp_path / "edits.safetensors"
    cb.save_edits(cb.Zero("z"), path)
    with pytest.raises(LoadError, match="load_edits reads it"):
        cb.decode.vocabulary.load_lens(path)
