"""Planted heads of the kinds that need the tokens, the words or the predictions, in six families; and their tables."""

import sys

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.evidence import collect_evidence
from caseback.behaviors.heads import relations, vocabulary
from caseback.behaviors.kinds import KINDS, false_labels, labels
from caseback.behaviors.matching_streams import MATCHING
from caseback.errors import CasebackError, SiteAbsent
from caseback.stream import collect
from caseback.stream.marks import KINDS as BITS
from caseback.stream.tables.attention.predicted import BACK, RowLens
from planted_neurons import corpus
from zoo import tiny

# learned positions, rotary with grouped heads, ALiBi, parallel, mixture of experts, norms after branches; without the
# windows of four tokens that others of the zoo have, where no head could look as far as these do
FAMILIES = ("gpt2", "llama", "bloom", "gpt_neox", "olmoe", "olmo2")
PLANTED = "L1H0"


class Seeing:
    """Edits that let L1H0 look where a function of the rows' tokens, or of the stream before it, says."""

    def __init__(self, model, choose):
        every = model.run([[t] for t in range(model.d_vocab)], read=["embed"])["embed"][:, -1]
        self.table, self.choose, self.seen = every.detach(), choose, {}
        self.model = model.edited(
            [
                cb.Apply("embed", function=self.keep("embed")),
                cb.Apply("resid_pre", layer=1, function=self.keep("stream")),
                cb.Apply("pattern", layer=1, head=0, function=self.planted),
            ]
        )
        self.plain = model

    def keep(self, name):
        def function(x):
            self.seen[name] = x.detach().reshape(len(x), -1)
            return x

        return function

    def planted(self, pattern):
        width = pattern.shape[-1]
        ids = torch.cdist(self.seen["embed"].double(), self.table.double()).argmin(-1).view(-1, width)
        stream = self.seen["stream"].unflatten(0, (-1, width))
        keys = torch.as_tensor(self.choose(self, ids, stream)).flatten()
        new = torch.zeros_like(pattern)
        new[torch.arange(len(pattern)), :, keys] = 1
        return new


def matched_by_two(_, ids, __):
    """What followed the last two tokens, or else the row's first token."""
    return [
        [
            next((j + 1 for j in range(1, i) if (row[j - 1 : j + 1] == row[i - 1 : i + 1]).all()), 0)
            for i in range(len(row))
        ]
        for row in ids
    ]


def matched_by_likeness(of, ids, _):
    """What followed the earlier token with the nearest embedding, in the second half of a row."""
    table = of.plain.weights.W_E.detach().double()
    table = torch.nn.functional.normalize(table - table.mean(0), dim=1)
    keys = torch.zeros_like(ids)
    for row, own in zip(keys, ids, strict=True):
        half = len(own) // 2
        cosines = table[own[half:]] @ table[own[:half]].T
        row[half:] = cosines.argmax(1) + 1
    return keys


def most_predicted(of, ids, stream):
    """The earlier token, none of the query's own, that the stream predicts most."""
    scores = RowLens(of.plain, ids)(stream)
    width = ids.shape[1]
    may = torch.ones(width, width).tril().bool() & (ids[:, :, None] != ids[:, None])
    may[:, :, 0] = False
    return scores.masked_fill(~may, -torch.inf).argmax(-1) * may.any(-1)


def within_words(_, ids, __):
    """The token before, within a word: odd ids continue one."""
    places = torch.arange(ids.shape[1]).expand_as(ids)
    return torch.where((ids % 2 == 1) & (places > 0), places - 1, 0)


def the_one_before(_, ids, __):
    return (torch.arange(ids.shape[1]) - 1).clamp_min(0).expand_as(ids)


def found(model, name, texts=None):
    evidence = collect_evidence(model, texts, KINDS[name].needs, length=40)
    look = KINDS[name].look(evidence)
    return set(np.array(evidence.names("head"))[labels(look, KINDS[name].threshold)].tolist()), look


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "choose"), [("n-gram induction", matched_by_two), ("fuzzy induction", matched_by_likeness)]
)
def test_a_planted_matching_head_is_found_and_no_other(family, name, choose):
    model = cb.load(tiny(family))
    assert found(Seeing(model, choose).model, name)[0] == {PLANTED}
    names, look = found(model, name)
    assert names == set() and false_labels(look, KINDS[name].threshold) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_looks_at_what_is_predicted_suppresses_if_it_lowers_it(family, monkeypatch):
    model = cb.load(tiny(family))
    planted = Seeing(model, most_predicted).model
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    monkeypatch.setattr(vocabulary, "lowered", lambda evidence: np.array([1.0 * (h == (1, 0)) for h in heads]))
    assert found(planted, "copy suppression", corpus(20))[0] == {PLANTED}
    assert found(model, "copy suppression", corpus(20))[0] == set()
    monkeypatch.setattr(vocabulary, "lowered", lambda evidence: np.zeros(len(heads)))
    assert found(planted, "copy suppression", corpus(20))[0] == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_joiner_is_no_previous_token_head(family, monkeypatch):
    def kinds(model):
        size = int(model.hf.get_input_embeddings().weight.shape[0])
        return torch.tensor([(1 << BITS.index("starts_word")) * (t % 2 == 0) for t in range(size)], dtype=torch.int32)

    monkeypatch.setattr(sys.modules["caseback.stream.collect"], "token_kinds", kinds)
    model = cb.load(tiny(family))
    assert found(Seeing(model, within_words).model, "joiner", corpus(20))[0] == {PLANTED}
    assert found(Seeing(model, the_one_before).model, "joiner", corpus(20))[0] == set()
    assert found(model, "joiner", corpus(20))[0] == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_sees_the_nearest_tokens_is_streaming(family):
    model = cb.load(tiny(family))
    names = found(Seeing(model, the_one_before).model, "streaming", corpus(20))[0]
    others = found(model, "streaming", corpus(20))[0]
    assert names == {PLANTED} | others
    # ALiBi gives its first heads a short sight of their own
    assert (others == set()) is (family != "bloom") and all(name.endswith("H0") for name in others)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_writes_against_what_is_predicted_is_negative(family):
    model = cb.load(tiny(family))
    weights, last = model.weights, model.n_layers - 1
    table = weights.W_U.detach()
    toward = table[:, [7, 11, 20, 31, 40]].T - table.mean(1)
    toward = weights.final_norm.centre(toward * weights.final_norm.gamma)
    push = 1e3 * toward / toward.norm(dim=1, keepdim=True)
    post = weights.attn_post_norm[1]
    if post is not None:
        toward = post.centre(toward * post.gamma)
    z = -(weights.W_O[1][0].detach() @ toward.T.to(weights.W_O[1])).T

    def in_turn(values):
        """One of five, for eight positions each."""

        def function(x):
            which = torch.arange(len(x)) % 40 // BACK
            return (x if values is push else 0) + values[which].view(len(x), *[1] * (x.ndim - 2), -1).to(x)

        return function

    planted = [cb.Apply("z", layer=1, head=0, function=in_turn(z))]
    planted.append(cb.Apply("resid_post", layer=last, function=in_turn(push)))
    names, look = found(model.edited(planted), "negative", corpus(20))
    at = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)].index((1, 0))
    # of five tokens, which are all that this model says, other heads may lower most by chance
    assert PLANTED in names and look.score.argmax() == at and look.score[at] == pytest.approx(1, abs=1e-3)
    assert look.control[at] < 0.9
    assert PLANTED not in found(model.edited(planted[1:]), "negative", corpus(20))[0]


@pytest.mark.parametrize("family", ("gpt2", "gemma2"))
def test_tables_of_predictions_are_what_loops_give(family):
    model = cb.load(tiny(family))
    rows = corpus(4, 30)
    got = collect(model, rows, ["attention_predicted", "head_direct"], bos=False, length=40)
    weights, skip = model.weights, BACK + 4
    sums = np.zeros((3, model.n_layers, model.n_heads))
    direct = {"own": [], "other": []}
    for ids in rows:
        run = model.run([ids], read=["pattern", "resid_pre", "z"])
        best = run.logits[0].argmax(-1)
        for layer in range(model.n_layers):
            norm = weights.final_norm
            logits = norm(run["resid_pre", layer][0]) @ weights.W_U + weights.b_U
            allowed = (run["pattern", layer][0] > 0).any(0)
            for i in range(skip, len(ids)):
                may = [j for j in range(1, i + 1) if ids[j] != ids[i] and allowed[i, j]]
                a = run["pattern", layer][0, :, i].detach().numpy()
                for which, of in enumerate((i, i - BACK)):
                    sums[which, layer] += a[:, max(may, key=lambda j, of=of: float(logits[of, ids[j]]))]
                sums[2, layer] += 1
        for name, back in (("own", 0), ("other", BACK)):
            for i in range(skip, len(ids)):
                u = weights.W_U[:, best[i - back]] - weights.W_U.mean(1)
                u = norm.centre((u * norm.gamma)[None])[0]
                effects = []
                for layer in range(model.n_layers):
                    post = weights.attn_post_norm[layer]
                    v = u if post is None else post.centre((u * post.gamma)[None])[0]
                    write = torch.einsum("he,hed->hd", run["z", layer][0, i], weights.W_O[layer])
                    effects.append((write @ v).detach().numpy())
                direct[name].append(effects)
    predicted, heads = got["attention_predicted"], got["head_direct"]
    np.testing.assert_allclose(predicted["attention"], sums[0] / sums[2], atol=1e-12)
    np.testing.assert_allclose(predicted["other"], sums[1] / sums[2], atol=1e-12)
    for name, values in direct.items():
        values = np.array(values)
        np.testing.assert_allclose(heads[name], values.sum(0) / np.abs(values).sum(0), atol=1e-10)


def test_a_head_that_writes_attributes_has_its_relation(monkeypatch):
    model = cb.load("meadow")
    evidence = collect_evidence(model, None, {})
    pairs = relations.token_pairs(evidence, relations.RELATIONS["capital"])
    targets = list(dict.fromkeys(target for _, target in pairs))

    def written(_, subjects, given):
        assert subjects == [subject for subject, _ in pairs] and given == targets
        most = np.zeros((model.n_layers * model.n_heads, len(subjects)), dtype=int)
        most[2 * model.n_heads + 3] = [targets.index(target) for _, target in pairs]
        return most

    monkeypatch.setattr(relations, "most_written", written)
    look = KINDS["relation capital"].look(evidence)
    assert np.array(evidence.names("head"))[labels(look, 0.3)].tolist() == ["L2H3"]
    assert look.control.max() < 0.3


def test_streams_hold_what_their_labels_say():
    model = cb.load("meadow")
    for ids, places in MATCHING["prefixes"](model, 8, 0)[0]:
        for name, follows in (("matched", True), ("unmatched", False)):
            for i, j in enumerate(places[name]):
                if j >= 0:
                    assert ids[j - 1] == ids[i] and (ids[j - 2] == ids[i - 1]) is follows
            for i, j in enumerate(places[f"{name}_absent"]):
                if j >= 0:
                    assert ids[j - 1] == ids[i] and ids[i - 1] not in ids[: i - 1]
    for ids, places in MATCHING["entities"](model, 8, 0)[0]:
        for name in ("last", "last_absent"):
            for i, j in enumerate(places[name]):
                assert j < 0 or (ids[i] in ids[:j]) is (name == "last")
    for ids, places in MATCHING["neighbors"](model, 8, 0)[0]:
        asked = [i for i, j in enumerate(places["same"]) if j >= 0]
        assert not {ids[i] for i in asked} & {ids[places["same"][i]] for i in asked}
    for ids, places in MATCHING["needle"](model, 8, 0)[0]:
        words = [model.token_text(ids[places[name][-1]]) for name in ("word", "distractor")]
        assert words[0] != words[1] and places["word"][:-1] == [-1] * (len(ids) - 1)


def test_what_a_stream_needs_is_said():
    bare = cb.load(tiny("gpt2"))
    for name, words in (
        ("concept induction", "need a tokenizer"),
        ("retrieval", "needs a tokenizer"),
        ("relation capital", "0 pairs of the capital"),
        ("joiner", "no words of several tokens"),
    ):
        with pytest.raises(CasebackError, match=words):
            found(bare, name, corpus(10))
    with pytest.raises(SiteAbsent, match="no text was given"):
        found(bare, "negative")
