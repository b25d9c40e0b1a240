"""Text known by heart: planted phrases come up in the layer that holds them, and in no other order of their words."""

import importlib
import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import memorization
from caseback.errors import CasebackError
from caseback.localize.inputs.training.matrices import is_linear
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.reports.concepts.memorization import memorization_document, texts_by_heart
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.memorization import print_memorization

N, PLACES = 6, 8
FIRST, SECOND, END, OTHER = ([f"{name}{i}" for i in range(N)] for name in "abcd")
TEXTS = [(f"a{i} e b{i}", f"c{i}") for i in range(N)]
PLAIN = [(f"e e d{i}", f"c{i}") for i in range(N)]


@pytest.fixture(scope="module")
def planted():
    """MLP 1 answers "a_i e b_i" with c_i, by what stood two places before; MLP 2 answers d_i alone with c_i."""
    parts = {"a": N, "b": N, "d": N, "e": 1, "place": PLACES, "before": N, "answer": N}
    draft = Draft([*FIRST, *SECOND, *END, *OTHER, "e"], PLACES - 1, parts)
    for part, words in (("a", FIRST), ("b", SECOND), ("d", OTHER), ("e", ["e"])):
        draft.embed(part, words)
    draft.place("place", range(PLACES))
    two_on = draft["place"][:, torch.arange(PLACES).add(2).remainder(PLACES)]
    draft.head(0, [(two_on, draft["place"], SHARP)], [(draft["a"], draft.into("before"))])
    draft.neurons(1, draft["before"] + draft["b"], torch.full((N,), -1.5), draft.into("answer", 8.0))
    draft.neurons(2, draft["d"], torch.full((N,), -0.5), draft.into("answer", 8.0))
    draft.unembed("answer", END)
    for part in ("b", "d"):  # what comes where no phrase is known
        draft.unembed(part, ["e"], torch.ones(1, N))
    model = draft.model(layers=4)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


def test_5_4_23_planted_phrases_come_up_in_their_own_layer_and_in_their_own_order(planted):
    known = memorization(planted, TEXTS, others=PLAIN)
    assert known["verbatim"].values.tolist() == [1.0] * N and known["written"].values.tolist() == [1] * N
    rank, settled = known["rank"], known["settled"]
    np.testing.assert_array_equal(settled.sel(variant="prompt"), np.full(N, 1))
    np.testing.assert_array_equal(settled.sel(variant="matched"), np.full(N, 2))
    # the words' order is what the phrase is known by
    assert settled.sel(variant="shuffled").isnull().all() and (rank.sel(variant="shuffled", layer=3) > 1).all()
    assert (rank.sel(variant="prompt", layer=0) > 1).all() and (
        rank.sel(variant="prompt", layer=slice(1, 3)) == 1
    ).all()
    by_hand = cb.log_prob([f" {one}" for _, one in TEXTS])(planted.run([prompt for prompt, _ in TEXTS]))
    np.testing.assert_allclose(known["log_prob"].sel(variant="prompt", layer=3), by_hand, atol=1e-12)
    np.testing.assert_allclose(known["loss"].sel(variant="prompt"), -by_hand, atol=1e-12)
    document = json.loads(json.dumps(memorization_document(planted, known, "phrases")))
    assert document["counts"] == {"texts": N, "verbatim": N, "matched": N, "shuffled": 0}
    assert document["settled"]["difference"] == -1.0 and document["settled"]["past"]
    console = Console(record=True, width=140)
    print_memorization(document, console=console)
    assert "first choice from layer 1.00 on, of 6 matched texts from 2.00 (−1.00 ± 0): earlier" in console.export_text()
    assert page_html(document).count("<svg") >= 2


def test_shares_of_the_gradient_are_autograds(planted):
    known = memorization(planted, TEXTS[:2], others=PLAIN[:2])
    np.testing.assert_allclose(known["gradient"].sum("layer"), np.ones((3, 2)), atol=1e-12)
    hf, tokens = planted.hf, planted.tokens([" ".join(TEXTS[1])])
    linear = [[m for m in parts.layer.modules() if is_linear(m)] for parts in planted.anatomy.layers]
    blocks = [[p for module in some for p in module.parameters()] for some in linear]
    flat = [p.requires_grad_() for some in blocks for p in some]
    log_p = hf(tokens.ids).logits[0, -2].log_softmax(-1)[tokens.ids[0, -1]]
    gradients = torch.autograd.grad(log_p, flat, allow_unused=True)
    squares = {id(p): 0.0 if g is None else float(g.square().sum()) for p, g in zip(flat, gradients, strict=True)}
    by_layer = np.array([sum(squares[id(p)] for p in some) for some in blocks])
    for p in flat:  # the model is shared
        p.requires_grad_(False)
    np.testing.assert_allclose(known["gradient"].sel(variant="prompt")[:, 1], by_layer / by_layer.sum(), atol=1e-10)


def test_what_is_not_known_is_said_so():
    model = cb.load("meadow")
    idioms, plain = texts_by_heart("idioms")
    assert plain is not None
    known = memorization(model, idioms[:4], others=plain[:4])
    assert known["verbatim"].sum() == 0 and known["settled"].sel(variant="matched").isnull().all()
    console = Console(record=True, width=140)
    print_memorization(memorization_document(model, known, "idioms"), console=console)
    assert "none of 4 is continued word for word" in console.export_text()


def test_several_pieces_count_until_the_first_that_differs():
    model = cb.load("meadow")
    texts = [
        ("The capital of France is", "Paris."),
        ("The capital of France is", "Paris Paris"),
        ("One of them is", "Rome"),
    ]
    known = memorization(model, texts)
    whole = model.generate("The capital of France is", max_new_tokens=2)
    assert known["verbatim"].values.tolist()[0] == float(model.text(whole)[0] == "The capital of France is Paris.")
    assert known["written"].values.tolist()[1] == 1 and known["pieces"].values.tolist()[1] == 2
    # without others, those that are not continued word for word stand beside
    assert known["matched"].values.tolist()[1:] == ["", ""]


@pytest.mark.parametrize(("texts", "words"), [([], "no text"), ([("Better late", "than never")], "fewer than 3 words")])
def test_texts_that_cannot_be_asked_for_are_refused(texts, words):
    with pytest.raises(CasebackError, match=words):
        memorization(cb.load("meadow"), texts)


def test_passages_are_parted_by_words(tmp_path):
    file = tmp_path / "passages.txt"
    file.write_text(" ".join(f"w{i}" for i in range(70)) + "\nshort\n")
    ((prompt, continuation),), others = texts_by_heart(str(file))
    assert prompt.split()[-1] == "w23" and continuation.split() == [f"w{i}" for i in range(24, 62)] and others is None
    file.write_text("short\n")
    with pytest.raises(CasebackError, match="no passage of 62 words"):
        texts_by_heart(str(file))
    with pytest.raises(CasebackError, match="neither idioms nor a file"):
        texts_by_heart("proverbs")


def test_progress_moves_a_few_texts_at_a_time(planted, monkeypatch):
    steps = []

    @contextmanager
    def bar(**options):
        yield SimpleNamespace(update=steps.append)

    monkeypatch.setattr(importlib.import_module(memorization.__module__), "progress_bar", bar)
    memorization(planted, TEXTS, others=PLAIN)
    assert sum(steps) == 3 * N and max(steps) <= 3 * N / 6
