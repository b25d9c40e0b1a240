"""A store gives the scores of the corpus itself, goes on after an interruption, and refuses what is not its own."""

import copy
import json

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import LoadError
from caseback.jobs import budget
from caseback.jobs.fingerprint import fingerprint
from caseback.localize.inputs import Projection, datainf, gradient_similarity, influence_functions, tracin, trak
from caseback.localize.inputs.training import per_example
from caseback.localize.inputs.training import store as store_module

CORPUS = [[(7 * i + 3 * j) % 60 + 1 for j in range(2 + i % 6)] for i in range(23)]
QUERIES = [[5, 6, 7, 8], [4, 2, 3]]
METHODS = {
    "ekfac": lambda *given, **k: influence_functions(*given, rank=4, **k),
    "fisher": lambda *given, **k: influence_functions(
        *given, curvature="fisher", projection=Projection("logra", 4), **k
    ),
    "trak": lambda *given, **k: trak(*given, projection=Projection("sparse", 16), **k),
    "tracin": lambda *given, **k: tracin(*given, checkpoints=[given[0], given[0]], rates=[0.1, 0.2], **k),
    "datainf": datainf,
    "cosine": gradient_similarity,
}


@pytest.fixture(autouse=True)
def small():
    """Windows of four examples and shards of one window, so that there are several."""
    with budget.override(influence_window=4, influence_shard_bytes=1):
        yield


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_store_gives_the_same_scores_and_answers_new_queries_without_the_corpus(method, tmp_path):
    model, folder = shelf.model("gpt2"), tmp_path / "store"
    plain = method(model, QUERIES, CORPUS)
    stored = method(model, QUERIES, iter(CORPUS), store=folder)
    again = method(model, QUERIES[1:], None, store=folder)
    scale = np.abs(plain.values).max()
    assert np.allclose(plain.values, stored.values, atol=1e-9 * scale)
    assert np.allclose(plain.values[1:], again.values, atol=1e-9 * scale)
    assert stored.text.values.tolist() == again.text.values.tolist() == plain.text.values.tolist()
    assert again.line.values.tolist() == list(range(23))
    shards = list(folder.rglob("rows-*.safetensors"))
    assert len(shards) >= 6 and not list(folder.rglob("*.part"))


@pytest.mark.parametrize("method", ["ekfac", "datainf", "tracin"])
def test_an_interrupted_store_is_continued_to_the_same_rows(method, tmp_path, monkeypatch):
    model, made = shelf.model("gpt2"), []
    whole = METHODS[method](model, QUERIES, CORPUS, store=tmp_path / "whole")
    write = store_module.GradientStore._write

    def interrupted(self, maker, shard, first):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(first)
        write(self, maker, shard, first)

    monkeypatch.setattr(store_module.GradientStore, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        METHODS[method](model, QUERIES, CORPUS, store=tmp_path / "part")
    with pytest.raises(LoadError, match="not complete: give the corpus"):
        METHODS[method](model, QUERIES, None, store=tmp_path / "part")

    def counted(self, maker, shard, first):
        made.append(first)
        write(self, maker, shard, first)

    monkeypatch.setattr(store_module.GradientStore, "_write", counted)
    resumed = METHODS[method](model, QUERIES, CORPUS, store=tmp_path / "part")
    assert made[3] == 12 and len(set(made)) == 6  # nothing was computed twice
    assert np.array_equal(resumed.values, whole.values)
    for mine, theirs in zip(*(sorted((tmp_path / f).rglob("*.safetensors")) for f in ("part", "whole")), strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


def test_a_stored_corpus_is_not_run_again(tmp_path, monkeypatch):
    model = shelf.model("gpt2")
    datainf(model, QUERIES, CORPUS, store=tmp_path)
    ran = []
    inputs_of = per_example.inputs_of
    monkeypatch.setattr(per_example, "inputs_of", lambda tokens, hf: ran.append(len(tokens)) or inputs_of(tokens, hf))
    datainf(model, QUERIES, CORPUS, store=tmp_path)
    assert ran == [len(QUERIES)]


def test_another_model_corpus_or_setup_is_refused(tmp_path):
    model = shelf.model("gpt2")
    other = cb.load(copy.deepcopy(model.hf))
    with torch.no_grad():
        other.hf.transformer.ln_f.bias[0] += 1e-6
    gradient_similarity(model, QUERIES, CORPUS, store=tmp_path)
    for match, given, options in (
        ("was made with other weights", (other, QUERIES, CORPUS), {}),
        ("was made with other weights", (shelf.model("llama"), QUERIES, CORPUS), {}),
        ("differs among examples 0 to 3", (model, QUERIES, CORPUS[1:]), {}),
        ("has more examples", (model, QUERIES, [*CORPUS, [1, 2]]), {}),
        ("differs among examples 20 to 22", (model, QUERIES, CORPUS[:-1]), {}),
        ("made otherwise: matrices is", (model, QUERIES, CORPUS), {"parts": "mlp"}),
        ("made otherwise: reduction is", (model, QUERIES, CORPUS), {"reduction": "mean"}),
        ("made otherwise: max_length is", (model, QUERIES, CORPUS), {"max_length": 9}),
        ("made otherwise: projection is", (model, QUERIES, CORPUS), {"projection": Projection("sparse", 8)}),
    ):
        with pytest.raises(LoadError, match=match):
            gradient_similarity(*given, store=tmp_path, **options)
    with pytest.raises(LoadError, match="made otherwise: output is"):
        trak(model, QUERIES, CORPUS, projection=Projection("whole"), store=tmp_path)


def test_what_is_no_store_or_a_broken_one_is_refused(tmp_path):
    model = shelf.model("gpt2")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(LoadError, match="folder of something else"):
        gradient_similarity(model, QUERIES, CORPUS, store=tmp_path / "notes")
    folder = tmp_path / "store"
    gradient_similarity(model, QUERIES, CORPUS, store=folder)
    (folder / "rows-00001.safetensors").write_bytes(b"short")
    with pytest.raises(LoadError, match="cannot be read.*Make the store again"):
        gradient_similarity(model, QUERIES, None, store=folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(LoadError, match="has format 99"):
        gradient_similarity(model, QUERIES, None, store=folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(LoadError, match="is not the index of a gradient store"):
        gradient_similarity(model, QUERIES, None, store=folder)


def test_a_fingerprint_is_of_every_weight_and_of_nothing_else():
    model = shelf.model("gpt2")
    same, other = (cb.load(copy.deepcopy(model.hf)) for _ in range(2))
    with torch.no_grad():
        other.hf.transformer.wpe.weight[-1, -1] += 1e-12
    assert fingerprint(model) == fingerprint(same) != fingerprint(other)
