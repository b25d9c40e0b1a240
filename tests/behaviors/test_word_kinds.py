"""Planted units that follow trees, rare tokens, word ends, peaks and the dark band, in several families; and facts."""

import sys

import numpy as np
import pytest
import torch
from test_head_kinds import Seeing, the_one_before

import caseback as cb
from caseback.behaviors import labelled_streams
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.heads.syntax import best_distance
from caseback.behaviors.kinds import KINDS, false_labels, labels
from caseback.behaviors.labelled_streams import MOVED, TREEBANK, arcs_of
from caseback.behaviors.neurons import syntax  # noqa: F401 - registers its kinds
from caseback.behaviors.stream.outliers import darkest
from caseback.errors import CasebackError, SiteAbsent
from caseback.stream.marks import KINDS as BITS
from caseback.tasks.formats.treebank import Sentence
from caseback.tasks.formats.word_tokens import WordTokens
from planted_neurons import DIGITS, corpus, fresh, labeled, reserve
from zoo import tiny

HEADS = ("gpt2", "llama", "bloom", "gpt_neox", "olmoe", "olmo2")
NEURONS = ("gpt2", "llama", "bloom", "gptj", "olmo2")
LENGTH = 40


def smallest_before(ids):
    """For each place the earlier one, not the first, with the smallest id; the first where there is none."""
    many = ids.unsqueeze(-2).expand(*ids.shape, ids.shape[-1]).clone().double()
    width = ids.shape[-1]
    barred = torch.ones(width, width).triu().bool()
    barred[:, 0] = True
    many[..., barred] = torch.inf
    return torch.where(many.isinf().all(-1), 0, many.argmin(-1))


def largest_so_far(_, ids, __):
    """The token so far with the largest id, not the first one."""
    many = ids.unsqueeze(-2).expand(*ids.shape, ids.shape[-1]).clone()
    many[..., torch.ones(ids.shape[-1], ids.shape[-1]).triu(1).bool()] = -1
    many[..., 0] = 0
    return many.argmax(-1)


@pytest.fixture
def trees(monkeypatch):
    """Sentences of random words whose trees follow from the words: each hangs on the smallest before it."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(1, 61, 14).tolist() for _ in range(120)]
    sentences = []
    for ids in rows:
        heads = smallest_before(torch.tensor(ids)).tolist()
        pos = tuple("NUM" if token in DIGITS else "NOUN" for token in ids)
        n = len(ids)
        numbers = tuple({"Number": "Plur" if token % 2 else "Sing"} for token in ids)
        sentences.append(Sentence("", ("w",) * n, ((0, 1),) * n, tuple(heads), ("obj",) * n, pos, pos, pos, numbers))

    def words(given, model):
        spans = [torch.arange(len(ids))[:, None].expand(-1, 2) for ids in rows]
        return WordTokens(model.tokens(rows), spans, list(given))

    monkeypatch.setattr(labelled_streams, "word_tokens", words)
    return sentences


def found(model, name, texts=None, sentences=(), sort="head"):
    evidence = collect_evidence(model, texts, KINDS[name].needs, length=LENGTH, sentences=sentences)
    look = KINDS[name].look(evidence)
    names = np.array(evidence.names(sort))[labels(look, KINDS[name].threshold)].tolist()
    return set(names), look, evidence


@pytest.mark.parametrize("family", HEADS)
def test_a_head_that_follows_a_tree_is_found_and_no_other(family, trees):
    model = cb.load(tiny(family))
    names, look, evidence = found(
        Seeing(model, lambda _, ids, __: smallest_before(ids)).model, "syntactic", sentences=trees
    )
    at = evidence.heads.index((1, 0))
    assert names == {"L1H0"} and look.classes[at] == "obj head" and look.score[at] > 0.6
    assert false_labels(look, KINDS["syntactic"].threshold) == 0
    # one that looks as often at the best distance as that is right has none
    assert found(Seeing(model, the_one_before).model, "syntactic", sentences=trees)[0] == set()
    assert found(model, "syntactic", sentences=trees)[0] == set()


def test_the_best_distance_and_moved_arcs_are_those_of_the_labels(trees):
    evidence = found(cb.load(tiny("gpt2")), "syntactic", sentences=trees)[2]
    every = [
        (i, key)
        for fold in evidence.rows[TREEBANK]
        for _, own in fold
        for i, key in enumerate(own["obj head"])
        if key >= 0 and i >= 4
    ]
    counts = np.bincount([i - key for i, key in every])
    shares = best_distance(evidence, "obj head")
    n = [sum(key >= 0 for _, own in fold for key in own["obj head"][4:]) for fold in evidence.rows[TREEBANK]]
    assert np.average(shares, weights=n) == pytest.approx(counts.max() / len(every))
    for fold in evidence.rows[TREEBANK]:
        for ids, own in fold:
            for i, (key, other) in enumerate(zip(own["obj head"], own["obj head" + MOVED], strict=True)):
                assert other < 0 or (key >= 0 and 0 < other < i and other != key and ids)


def test_arcs_are_seen_from_their_later_end():
    rest = [("_",) * 4] * 3 + [({},) * 4]
    sentence = Sentence("", ("a", "red", "cat", "ran"), (), (2, 2, 3, -1), ("det", "amod", "nsubj", "root"), *rest)
    assert arcs_of(sentence, [1, 2, 3, 5]) == [
        ("det dependent", 3, 1),
        ("amod dependent", 3, 2),
        ("nsubj dependent", 5, 3),
    ]
    assert ("det dependent", 2, 0) not in arcs_of(sentence, [0, 1, 2, 3])  # the row's first token is no key


@pytest.mark.parametrize("family", ("gpt2", "llama", "bloom", "gptj"))
def test_a_neuron_that_tells_parts_of_speech(family, trees):
    model = fresh(family)
    reserve(model, 11)
    axis = torch.eye(model.d_model).double()[11] * 2
    with torch.no_grad():
        embed = model.hf.get_input_embeddings().weight
        embed[:, 11] = torch.tensor([3.0 if t in DIGITS else -3.0 for t in range(len(embed))])
        model.weights.W_in[1][:, 6] = axis
        if model.anatomy.layers[1].w_gate is not None:
            model.weights.W_gate[1][:, 6] = axis
    names, look, evidence = found(model, "part of speech", sentences=trees, sort="neuron")
    at = evidence.neurons.index((1, 6))
    assert names == {"L1N6"} and look.score.argmax() == at and false_labels(look, 0.3) == 0
    assert "L1N6" not in found(model, "grammatical number", sentences=trees, sort="neuron")[0]
    with pytest.raises(SiteAbsent, match="no word of the treebank is marked so"):
        KINDS["grammatical tense"].look(evidence)


@pytest.mark.parametrize("family", HEADS)
def test_a_head_that_looks_at_rare_tokens_is_found_and_no_other(family):
    model = cb.load(tiny(family))
    p = 1 / np.arange(1, 61)
    texts = corpus(60, LENGTH, ids=lambda rng, n: 1 + rng.choice(60, n, p=p / p.sum()))
    names, look, _ = found(Seeing(model, largest_so_far).model, "rare token", texts)
    assert names == {"L1H0"} and false_labels(look, KINDS["rare token"].threshold) == 0
    assert found(model, "rare token", texts)[0] == set()


@pytest.mark.parametrize("family", HEADS)
def test_a_head_that_writes_into_the_dark_band_is_found_and_no_other(family):
    model = fresh(family)
    plain = found(model, "dark signal", corpus(20))
    assert plain[0] == set() and false_labels(plain[1], KINDS["dark signal"].threshold) == 0
    low = darkest(plain[2])
    with torch.no_grad():
        norm = model.weights.attn_post_norm[1]
        row = low[:, 0] if norm is None else low[:, 0] / norm.gamma
        write = model.weights.W_O[1][0]
        write.copy_(torch.randn(len(write), 1, generator=torch.Generator().manual_seed(1)).double() * row)
    names, look, evidence = found(model, "dark signal", corpus(20))
    # the norms of this family are of what all heads of a layer write, so that the share is only of the direction
    assert names == {"L1H0"} and look.beside["share"][evidence.heads.index((1, 0))] > 0.9


def test_words_go_on_and_end_where_their_tokens_say_so():
    from caseback.stream.marks import marks_of
    from caseback.stream.packing import Block, Row
    from caseback.stream.tables.token_groups import group_matrix

    letters, starts = (1 << BITS.index(name) for name in ("letters", "starts_word"))
    # 0 begins a word, 1 goes on with one, 2 is a comma
    kinds = torch.tensor([letters | starts, letters, 1 << BITS.index("punctuation")], dtype=torch.int32)
    block = Block.of([Row([0, 1, 1, 2, 1, 0, 1], 0, 0, 0), Row([1, 1, 0], 1, 0, 0)])
    got = group_matrix(marks_of(block, kinds), ["words"], torch.float32)
    assert got[:, 0].tolist() == [0, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    assert got[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]  # the row's last may go on
    assert (got[:, 2] <= got[:, 0]).all()


def reads_ahead(x, ids):
    """1 where a token goes on with a word that the next one does not."""
    starts = ids % 3 == 0
    own = (~starts & starts.roll(-1, 1)).flatten().to(x)
    return x * 0.01 + own.view(len(x), *[1] * (x.ndim - 1))


@pytest.mark.parametrize("family", NEURONS)
def test_a_neuron_that_knows_where_words_end_is_found_and_no_other(family, monkeypatch):
    from test_labelled_kinds import Reading

    def kinds(model):
        size = int(model.hf.get_input_embeddings().weight.shape[0])
        letters, starts = (1 << BITS.index(name) for name in ("letters", "starts_word"))
        return torch.tensor([letters | (starts * (t % 3 == 0)) for t in range(size)], dtype=torch.int32)

    monkeypatch.setattr(sys.modules["caseback.stream.collect"], "token_kinds", kinds)
    model = cb.load(tiny(family))
    planted = Reading(model, "mlp_post", reads_ahead, layer=2, unit=6).model
    names, look, _ = found(planted, "word end", corpus(60), sort="neuron")
    assert names == {"L2N6"} and look.score.max() > 0.8 and false_labels(look, KINDS["word end"].threshold) == 0
    assert found(model, "word end", corpus(60), sort="neuron")[0] == set()


@pytest.mark.parametrize("family", NEURONS)
def test_a_neuron_of_one_pair_is_one_of_the_pair_and_one_of_a_token_of_the_token(family):
    from test_labelled_kinds import Reading

    # most 7 stand behind others than 9
    texts = [ids[:20] + [9, 7, 3, 7, 4, 7, 5, 7] + ids[20:-8] for ids in corpus(60, LENGTH)]

    def pair(x, ids):
        own = ((ids == 7) & (ids.roll(1, 1) == 9)).flatten().to(x)
        return x * 1e-3 + own.view(len(x), *[1] * (x.ndim - 1))

    def alone(x, ids):
        # every 7 is as strong as the others up to a little that follows from its place
        own = (ids == 7).flatten() * (1 + 1e-3 * torch.rand(ids.numel(), generator=torch.Generator().manual_seed(1)))
        return x * 1e-6 + own.to(x).view(len(x), *[1] * (x.ndim - 1))

    model = cb.load(tiny(family))
    of_pair = collect_evidence(
        Reading(model, "mlp_post", pair, layer=2, unit=6).model, texts, KINDS["token"].needs, length=LENGTH
    )
    of_token = collect_evidence(
        Reading(model, "mlp_post", alone, layer=2, unit=6).model, texts, KINDS["token"].needs, length=LENGTH
    )
    at = of_pair.neurons.index((2, 6))
    look = KINDS["bigram"].look(of_pair)
    assert "L2N6" in labeled(of_pair, "bigram")[0] and look.score[at] > 0.4
    assert (look.beside["before"][at], look.beside["token"][at]) == (9, 7)
    assert "L2N6" in labeled(of_token, "token")[0] and "L2N6" not in labeled(of_token, "bigram")[0]
    for evidence in (of_pair, of_token):
        assert labeled(evidence, "token")[1] == 0 and labeled(evidence, "bigram")[1] == 0


def test_what_these_kinds_lack_is_said():
    bare = cb.load(tiny("gpt2"))
    with pytest.raises(SiteAbsent, match="no treebank was given"):
        found(bare, "syntactic")
    with pytest.raises(SiteAbsent, match="no text was given"):
        found(bare, "rare token")
    with pytest.raises(SiteAbsent, match="5 rows of text"):
        found(bare, "rare token", corpus(5))
    with pytest.raises(CasebackError, match="are of the group 'continues a word'"):
        found(bare, "word end", corpus(10), sort="neuron")
    with pytest.raises(SiteAbsent, match="texts in a half"):
        KINDS["token"].look(collect_evidence(bare, corpus(6), {TEXT: ("neuron_windows",)}, length=LENGTH))
