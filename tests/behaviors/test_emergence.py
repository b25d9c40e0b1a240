"""What emerges over checkpoints: n-grams that a model is, kinds that arise and stay, runs that are interrupted."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
import shelf
from caseback.behaviors import Emergence, emergence, load_emergence, save_emergence
from caseback.behaviors.growth.emergence import HEADS
from caseback.behaviors.growth.losses import Text, in_random_tokens, late_less_early, losses_of, text_losses
from caseback.behaviors.growth.ngrams import NGrams
from caseback.errors import CasebackError, LoadError
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.reports.concepts.emergence import emergence_document
from caseback.views.text.concepts.emergence import print_emergence

VOCAB = 12
rng = np.random.default_rng(1)
ROWS = [[0, *rng.choice(VOCAB - 1, 39, p=np.arange(1, VOCAB) / 66) + 1] for _ in range(24)]
ROWS = [[int(token) for token in row] for row in ROWS]


def table_model(log_probs):
    """A model whose prediction after each token is a row of a table, whatever stands before."""
    config = CrystalConfig(
        VOCAB, 64, hidden_size=VOCAB, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4
    )
    hf = CrystalForCausalLM(config).double().eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
        hf.model.embed_tokens.weight.copy_(torch.eye(VOCAB))
        hf.lm_head.weight.copy_(log_probs.T)
    return cb.load(hf)


@pytest.fixture(scope="module")
def text():
    return Text.of(ROWS, VOCAB)


def test_counts_are_those_of_a_plain_count():
    counts = NGrams(ROWS, VOCAB)
    pairs = [(a, b) for row in ROWS for a, b in zip(row, row[1:], strict=False)]
    n = len(pairs)
    u = [(sum(b == token for _, b in pairs) + 1) / (n + VOCAB) for token in range(VOCAB)]
    np.testing.assert_allclose(counts.unigram, u)
    of = [b for a, b in pairs if a == 3]
    k = len(set(of))
    expected = [(of.count(b) + k * u[b]) / (len(of) + k) for b in range(VOCAB)]
    np.testing.assert_allclose(counts.after(torch.tensor([3]))[0], expected)
    alone, after = counts.losses([5, 3, 4])
    np.testing.assert_allclose(alone, [-np.log(u[3]), -np.log(u[4])])
    np.testing.assert_allclose(after[1], -np.log(expected[4]))


def test_5_4_13_a_model_that_is_the_bigrams_is_at_no_distance_from_them(text):
    model = table_model(text.counts.after(torch.arange(VOCAB)).log())
    losses, apart = text_losses(model, text)
    assert apart["to bigrams"] == pytest.approx(0, abs=1e-6)
    assert apart["to unigrams"] == pytest.approx(text.distances["to unigrams"], abs=1e-6)
    np.testing.assert_allclose(losses, text.losses["bigram"], atol=1e-5)


def test_5_4_13_a_model_that_is_the_unigrams_is_as_far_from_bigrams_as_they_are(text):
    model = table_model(text.counts.unigram.log().expand(VOCAB, VOCAB))
    losses, apart = text_losses(model, text)
    assert apart["to unigrams"] == pytest.approx(0, abs=1e-6)
    assert apart["to bigrams"] == pytest.approx(text.distances["to bigrams"], abs=1e-6)
    assert text.distances["to bigrams"] > 0.01
    np.testing.assert_allclose(losses, text.losses["unigram"], atol=1e-5)


def test_losses_are_those_of_single_rows():
    model = shelf.model("gpt2")
    rows = [[5, 9, 3, 8, 7], [4, 2], [6, 1, 9]]
    losses = losses_of(model, rows)
    for row, own in zip(rows, losses, strict=True):
        of = model.run([row]).logits[0].log_softmax(-1)
        expected = [-float(of[i, token]) for i, token in enumerate(row[1:])]
        np.testing.assert_allclose(own[: len(expected)], expected, rtol=1e-5)
        assert np.isnan(own[len(expected) :]).all()


def test_learning_in_context_is_a_difference_of_late_and_early_tokens():
    losses = np.tile(np.r_[np.full(20, 5.0), np.full(20, 2.0)], (3, 1)) + np.array([[0.0], [1.0], [2.0]])
    assert late_less_early(losses) == (-3.0, 0.0)
    with pytest.raises(CasebackError, match="join short texts"):
        late_less_early(losses[:, :10])


def test_what_comes_again_is_cheaper_for_a_model_that_looks_back():
    repeated, fresh = in_random_tokens(cb.load("meadow"), 8, 0)
    assert repeated < -5 and abs(fresh) < 1
    untrained = shelf.model("gpt2")
    repeated, fresh = in_random_tokens(untrained, 8, 0)
    assert abs(repeated - fresh) < 0.2


@pytest.fixture(scope="module")
def untrained():
    from transformers import AutoModelForCausalLM

    meadow = cb.load("meadow")
    torch.manual_seed(0)
    return cb.load(AutoModelForCausalLM.from_config(meadow.hf.config).eval(), tokenizer=meadow.tokenizer)


TEXTS = [f"Mary gave a {thing} to John and the {thing} is on the table" for thing in "drum map rope coin bone".split()]


def test_5_4_13_a_kind_arises_where_it_is_seen_and_stays(untrained):
    meadow = cb.load("meadow")
    grown = emergence({20: meadow, 0: untrained}, kinds="induction", rows=8)
    assert grown.steps == (0, 20) and grown.kind("induction").arises == 20
    assert [count > 0 for count in grown.kind("induction").seen] == [False, True]
    own = grown.kind("induction")
    score, band = np.array(own.score, float), np.array(own.band, float)
    assert score[0] < own.threshold and score[1] > max(band[1], own.threshold)
    assert own.best[1].startswith("L2H")
    assert grown.curve("loss").missing == "no text was given"
    random = grown.curve("in context, random tokens")
    own, beside = np.array(random.values, float), np.array(random.beside, float)
    assert own[1] < -5 and abs(own[0]) < 1 and abs(beside[1]) < 1
    expected = sum(float(weight.detach().double().square().sum()) for weight in meadow.hf.parameters())
    assert grown.curve("squared weights").values[1] == pytest.approx(expected)


def test_an_interrupted_run_goes_on_and_another_is_refused(untrained, tmp_path, monkeypatch):
    from caseback.behaviors.growth import emergence as module

    file, run = tmp_path / "state.npz", {0: untrained, 1: cb.load("meadow")}
    given = {"corpus": TEXTS, "kinds": "copying", "rows": 8, "checkpoint": file}
    measure, calls = module._measure, []

    def once(*arguments):
        calls.append(arguments[0].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(module, "_measure", once)
    with pytest.raises(KeyboardInterrupt):
        emergence(run, **given)
    grown = emergence(run, **given)
    assert len(calls) == 3
    monkeypatch.undo()
    assert grown.to_json() == emergence(run, **{**given, "checkpoint": None}).to_json()
    with pytest.raises(LoadError, match=r"what differs: options"):
        emergence(run, **{**given, "seed": 1})
    # a model that is another one now is measured again
    assert emergence({0: run[1], 1: untrained}, **given).kind("copying").score == grown.kind("copying").score[::-1]


def test_what_was_measured_is_saved_and_read(untrained, tmp_path):
    grown = emergence({0: untrained, 1: cb.load("meadow")}, TEXTS, kinds="copying", rows=8)
    save_emergence(grown, tmp_path / "grown.json")
    again = load_emergence(tmp_path / "grown.json")
    assert isinstance(again, Emergence) and again == grown and "copying" in repr(again)
    data = json.loads((tmp_path / "grown.json").read_text(encoding="utf-8"))
    data["kinds"][0]["score"].append(1.0)
    with pytest.raises(CasebackError, match="a curve of 3 values over 2 checkpoints"):
        Emergence.from_json(data)
    with pytest.raises(CasebackError, match="no kind is called 'copy' here"):
        grown.kind("copy")


def test_what_cannot_be_measured_is_refused(untrained, tmp_path):
    with pytest.raises(CasebackError, match="expected two or more"):
        emergence({0: untrained})
    with pytest.raises(CasebackError, match="expected whole numbers from 0 on"):
        emergence({-1: untrained, 0: untrained})
    with pytest.raises(CasebackError, match="has no checkpoints"):
        emergence(tmp_path)
    with pytest.raises(CasebackError, match="is no kind of head"):
        emergence({0: untrained, 1: untrained}, kinds="dead")
    with pytest.raises(CasebackError, match="expected one vocabulary"):
        emergence({0: untrained, 1: shelf.model("gpt2")}, kinds="copying")
    with pytest.raises(CasebackError, match="a corpus of 1 rows"):
        emergence({0: untrained, 1: untrained}, ["one text"], kinds="copying")
    with pytest.raises(CasebackError, match="8 at least"):
        emergence({0: untrained, 1: untrained}, rows=2)


def test_every_default_kind_is_of_heads():
    from caseback.behaviors import KINDS

    assert all(KINDS[name].sort == "head" for name in HEADS)


def test_5_4_17_of_the_grokking_run_weights_are_measured_and_the_rest_says_why():
    grown = emergence("grokking", [[a, b, 53] for a in range(20) for b in range(10)], kinds=["induction", "copying"])
    assert "a context of 3" in grown.kind("induction").missing
    weights = grown.curve("squared weights").values
    assert weights[0] == pytest.approx(1263, abs=1) and weights[2] == pytest.approx(2271, abs=1)


def test_both_tables_in_the_terminal_say_what_their_numbers_are(untrained):
    grown = emergence({0: untrained, 1: cb.load("meadow")}, TEXTS, kinds="copying", rows=8)
    file = io.StringIO()
    print_emergence(emergence_document(grown), console=Console(width=160, file=file))
    lines = file.getvalue().splitlines()
    score, first = (next(i for i, line in enumerate(lines) if words in line) for words in ("best head's", "losses, n-"))
    assert lines[score + 1].startswith("copying") and "has the label" in lines[score + 2] and first == score + 3
    assert all(lines[i].split()[-2:] == ["0", "1"] for i in (score, first)) and len(lines) > first + 2
    only = emergence({0: untrained, 1: untrained}, kinds="copying", rows=8)
    file = io.StringIO()
    print_emergence(emergence_document(only), console=Console(width=160, file=file))
    assert file.getvalue().count("by step") == 2  # norms are measured without a text
