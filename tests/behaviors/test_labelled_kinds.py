"""Planted units that tell classes of texts apart are found in several families, and nothing with permuted labels."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.by_class import FEWEST, Half, auroc, precision, sparsity, threshold
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import KINDS, false_labels, labels
from caseback.behaviors.labelled import labelled_documents, two_folds
from caseback.behaviors.proofs.experiments import EXPERIMENTS
from caseback.behaviors.proofs.proving import prove
from caseback.errors import CasebackError, SiteAbsent
from caseback.stream.tables.attention.direct import toward_tokens
from planted_neurons import DIGITS, bits_of, corpus
from zoo import tiny

NEURONS = ("gpt2", "llama", "bloom", "gptj", "olmo2")
HEADS = ("gpt2", "llama", "bloom", "gpt_neox", "olmoe", "olmo2")
EXPERTS = ("mixtral", "olmoe")
LENGTH = 40
LAST = 2
"""The last layer, so that no unit reads what is planted."""


class Reading:
    """Edits of one unit that depend on the tokens of its row, which no other unit can tell."""

    def __init__(self, model, site, function, **where):
        self.table = model.run([[t] for t in range(model.d_vocab)], read=["embed"])["embed"][:, -1].detach()
        self.ids = torch.zeros(0)
        self.function = function
        edits = [cb.Apply("embed", function=self.keep), cb.Apply(site, function=self.planted, **where)]
        self.model = model.edited(edits)

    def keep(self, x):
        flat = x.detach().reshape(-1, x.shape[-1])
        ids = torch.cdist(flat.double(), self.table.double()).argmin(-1)
        # two tokens are run to see how wide a site is
        self.ids = ids.view(-1, LENGTH if len(ids) % LENGTH == 0 else len(ids))
        return x

    def planted(self, x):
        return self.function(x, self.ids)


def odd(ids):
    """A class that no sum of what tokens say tells."""
    return ids.sum(-1) % 2 == 1


def fires_where_odd(x, ids):
    own = odd(ids)[:, None].expand_as(ids).flatten().to(x)
    return x * 0.01 + own.view(len(x), *[1] * (x.ndim - 1))


def texts(label, values=("even", "odd"), n=100):
    return [(ids, {label: values[int(odd(torch.tensor(ids)))]}) for ids in corpus(n, LENGTH)]


def found(model, name, given, sort="neuron"):
    evidence = collect_evidence(model, given, KINDS[name].needs, length=LENGTH)
    look = KINDS[name].look(evidence)
    names = np.array(evidence.names(sort))[labels(look, KINDS[name].threshold)].tolist()
    return set(names), look, evidence


@pytest.mark.parametrize("family", NEURONS)
def test_a_neuron_that_tells_a_class_is_found_and_no_other(family):
    model = cb.load(tiny(family))
    names = ("domain", "sentiment", "skill", "concept")
    given = [(ids, dict.fromkeys(names, own["domain"])) for ids, own in texts("domain")]
    plain = collect_evidence(model, given, KINDS["domain"].needs, length=LENGTH)
    planted = Reading(model, "mlp_post", fires_where_odd, layer=LAST, unit=6).model
    evidence = collect_evidence(planted, given, KINDS["domain"].needs, length=LENGTH)
    at = evidence.neurons.index((LAST, 6))
    for name in names:
        look, without = (KINDS[name].look(one) for one in (evidence, plain))
        bound = KINDS[name].threshold
        assert labels(look, bound).nonzero()[0].tolist() == [at], name
        assert look.score[at] == pytest.approx(1)
        assert look.classes[at] == "odd" or (look.classes[at], look.beside["sign"][at]) == ("even", -1)
        assert not labels(without, bound).any() and false_labels(look, bound) == false_labels(without, bound) == 0


@pytest.mark.parametrize("family", NEURONS)
def test_a_neuron_of_one_language_has_no_entropy(family):
    def one_language(x, ids):
        return torch.where(odd(ids)[:, None].expand_as(ids).reshape(len(x), *[1] * (x.ndim - 1)), 1.0, -1.0).to(x)

    model = cb.load(tiny(family))
    site = "mlp_post" if model.anatomy.layers[1].w_gate is None else "mlp_gate"
    names, look, evidence = found(
        Reading(model, site, one_language, layer=LAST, unit=6).model, "language", texts("language")
    )
    assert names == {"L2N6"} and look.score[evidence.neurons.index((LAST, 6))] == pytest.approx(1)
    names, look, _ = found(model, "language", texts("language"))
    assert names == set() and false_labels(look, KINDS["language"].threshold) == 0


@pytest.mark.parametrize("family", NEURONS)
@pytest.mark.parametrize(("name", "column"), [("space", "longitude"), ("time", "year")])
def test_a_neuron_that_follows_a_number_is_found(family, name, column):
    def by_sum(x, ids):
        own = -(ids.sum(-1) % 97)[:, None].expand_as(ids).flatten().to(x)
        return x * 0 + own.view(len(x), *[1] * (x.ndim - 1))

    given = [
        {"text": ids, column: float(sum(ids) % 97), **({"latitude": float(number % 7)} if name == "space" else {})}
        for number, ids in enumerate(corpus(240, LENGTH))
    ]
    model = cb.load(tiny(family))
    names, look, evidence = found(Reading(model, "mlp_post", by_sum, layer=LAST, unit=6).model, name, given)
    at = evidence.neurons.index((LAST, 6))
    assert "L2N6" in names and look.score.argmax() == at and look.beside[column][at] == pytest.approx(-1)
    assert false_labels(look, KINDS[name].threshold) == 0 and not found(model, name, given)[0]


def writes_next_where_odd(model):
    """What makes L2H0 write the next token in texts of one class."""
    weights = model.weights

    def write(x, ids):
        following = ids.roll(-1).flatten()
        toward = toward_tokens(weights, following, weights.W_U.detach().mean(1)).to(x)
        post = weights.attn_post_norm[LAST]
        toward = toward if post is None else post.centre(toward * post.gamma.to(toward))
        z = 10 * toward @ weights.W_O[LAST][0].detach().to(toward).T
        own = odd(ids)[:, None].expand_as(ids).reshape(-1, 1).to(x)
        return x * 0.01 + (own * z).view(len(x), *[1] * (x.ndim - 2), -1)

    return write


@pytest.mark.parametrize("family", HEADS)
def test_a_head_that_helps_in_one_domain_is_found_and_no_other(family):
    model = cb.load(tiny(family))
    planted = Reading(model, "z", writes_next_where_odd(model), layer=LAST, head=0).model
    names, look, evidence = found(planted, "domain-specialised", texts("domain"), "head")
    at = evidence.heads.index((LAST, 0))
    assert look.score.argmax() == at and look.classes[at] == "odd" and look.score[at] == pytest.approx(1)
    # where it adds much, every other head's share is small, so these are heads of the other texts
    others = {look.classes[i] for i in range(len(look.score)) if i != at and look.score[i] > 0.9}
    assert "L2H0" in names and others <= {"even"}
    assert false_labels(look, KINDS["domain-specialised"].threshold) == 0
    assert found(model, "domain-specialised", texts("domain"), "head")[0] == set()


@pytest.mark.parametrize("family", EXPERTS)
def test_an_expert_that_is_added_in_one_domain_is_found_and_no_other(family):
    model = cb.load(tiny(family))
    planted = Reading(model, "expert", fires_where_odd, layer=LAST, unit=2).model
    names, look, evidence = found(planted, "domain expert", texts("domain"), "expert")
    assert names == {"L2X2"} and look.score[evidence.experts.index((LAST, 2))] == pytest.approx(1)
    assert found(model, "domain expert", texts("domain"), "expert")[0] == set()


@pytest.mark.parametrize("family", EXPERTS)
def test_an_expert_that_is_added_at_numbers_alone(family, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["caseback.stream.collect"], "token_kinds", bits_of)

    def at_numbers(x, ids):
        own = torch.isin(ids, torch.tensor(sorted(DIGITS))).flatten().to(x)
        return own.view(len(x), *[1] * (x.ndim - 1)) + x * 0

    model = cb.load(tiny(family))
    names, look, evidence = found(
        Reading(model, "expert", at_numbers, layer=LAST, unit=2).model, "token expert", corpus(60), "expert"
    )
    at = evidence.experts.index((LAST, 2))
    assert "L2X2" in names and look.score.argmax() == at and look.score[at] == pytest.approx(1)
    assert look.classes[at] in ("digits", "letters") and false_labels(look, 0.1) == 0
    plain = found(model, "token expert", corpus(60), "expert")[1]
    assert plain.score[at] < 0.5


@pytest.mark.parametrize(("family", "sort", "unit"), [("gpt2", "neuron", (LAST, 6)), ("mixtral", "expert", (LAST, 2))])
def test_the_loss_of_a_class_is_what_single_runs_give(family, sort, unit):
    model = cb.load(tiny(family))
    site = {"neuron": "mlp_post", "expert": "expert"}[sort]
    name = {"neuron": "domain", "expert": "domain expert"}[sort]
    needs = {TEXT: (*KINDS[name].needs[TEXT], "neuron_moments" if sort == "neuron" else "router_counts")}
    evidence = collect_evidence(model, texts("domain"), needs, length=LENGTH)
    look = KINDS[name].look(evidence)
    at = evidence.units(sort).index(unit)
    experiment = EXPERIMENTS[KINDS[name].proof].each(evidence, look, at)
    outcome = prove(evidence, experiment, {name: [at]}, {name: [at]}, KINDS, together=False)[name, at]
    value = 0.0 if sort == "expert" else float(evidence.by_neuron(TEXT, "neuron_moments", "mlp_post_mean").mean(1)[at])
    changes = {True: [], False: []}
    for ids in evidence.documents[1]:
        edit = cb.Replace(site, layer=unit[0], unit=unit[1], value=value)
        scores = []
        for run in (model.run([ids]), model.run([ids], edits=[edit])):
            log_p = run.logits[0, :-1].double().log_softmax(-1)
            scores.append(float(log_p[range(len(ids) - 1), ids[1:]].mean()))
        changes[bool(odd(torch.tensor(ids)))].append(scores[1] - scores[0])
    wanted = look.classes[at] == "odd"
    n = min(16, len(changes[True]), len(changes[False]))
    expected = np.mean(changes[wanted][:n]) - np.mean(changes[not wanted][:n])
    # Mixtral takes its router's softmax in float32, so passes of other sizes differ by its rounding
    assert (
        outcome.effect == pytest.approx(expected, rel=1e-4 if sort == "expert" else 1e-8)
        and outcome.unit == "nats a token"
    )


def test_measures_of_planted_and_constant_units():
    members = np.eye(2).repeat(5, 1)
    n = np.arange(10.0)[:, None]
    half = Half(
        members,
        {
            "mean": np.hstack([n, -n, np.ones((10, 1))]),
            "largest": np.hstack([n, -n, np.ones((10, 1))]),
            "fires": np.hstack([members[:1].T, np.ones((10, 1)), np.zeros((10, 1))]),
        },
        np.ones(10),
    )
    np.testing.assert_allclose(auroc(half, half)(members), [[-1, 1, 0], [1, -1, 0]])
    np.testing.assert_allclose(threshold(half, half)(members), [[-1, 1, 0], [1, -1, 0]])
    assert precision(half, half)(members)[:, :2].round(3).tolist() == [[-0.291, 1.0], [1.0, -0.291]]
    assert sparsity(half)(members)[0].tolist() == [0.0, 0.0, 0.0]  # none above the 95 % quantile: two fire always
    half.values["fires"][:, 1] = 0
    assert sparsity(half)(members)[0].tolist() == [1.0, 0.0, 0.0]


def test_labels_are_read_from_records_pairs_and_files(tmp_path):
    (tmp_path / "some.jsonl").write_text('{"text": "a", "domain": "x", "year": 3}\n{"text": "b", "domain": [1]}\n')
    read = [(d.content, own) for d, own in labelled_documents(tmp_path / "some.jsonl")]
    assert read == [("a", {"domain": "x", "year": 3.0}), ("b", {})]
    (pair,) = labelled_documents([([1, 2], {"language": "Greek", "source": 3})])
    assert pair[1] == {"language": "Greek"} and pair[0].labels == {"source": 3}
    with pytest.raises(CasebackError, match="one text was given"):
        list(labelled_documents("text"))


def test_folds_share_classes_and_stop_at_the_row_that_reaches_the_tokens():
    model = cb.load("meadow")
    given = [{"text": "Mary went to the store.", "domain": "ab"[i % 2]} for i in range(40)]
    folds = two_folds(given, model, None, None)
    assert [np.bincount(own).tolist() for own in folds.labels.codes["domain"]] == [[10, 10], [10, 10]]
    whole = ["Mary went to the store. " * 200] * 6
    for n_tokens in (300, 777):
        collections = collect_evidence(model, whole, {TEXT: ("token_counts",)}, n_tokens=n_tokens, length=32)
        assert n_tokens <= collections.n_tokens <= n_tokens + 2 * 32


def test_what_a_labelled_kind_lacks_is_said():
    model = cb.load(tiny("gpt2"))
    with pytest.raises(SiteAbsent, match="no document has a label 'language'"):
        found(model, "language", texts("domain"))
    with pytest.raises(SiteAbsent, match="no document has a number 'year'"):
        found(model, "time", texts("domain"))
    with pytest.raises(SiteAbsent, match=f"expected two classes with {2 * FEWEST} documents each"):
        found(model, "domain", texts("domain", ("same", "same")))
    with pytest.raises(SiteAbsent, match="each expert has its own"):
        found(cb.load(tiny("mixtral")), "domain", texts("domain"))
