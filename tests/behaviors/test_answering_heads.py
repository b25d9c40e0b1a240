"""Heads by what they do to answers: planted ones are found and proved in several families, and no others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import KINDS, answers_of_heads, atlas
from caseback.behaviors.answers_of_heads import claims_of, effects_of, known_claims_of, known_functions
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import false_labels, labels
from caseback.behaviors.mechanisms.shots import Shots
from caseback.behaviors.proofs.experiments import EXPERIMENTS
from caseback.behaviors.proofs.proving import prove
from caseback.errors import SiteAbsent
from planted_neurons import corpus, fresh

FAMILIES = ("gpt2", "llama", "bloom", "gpt_neox", "olmoe", "olmo2")  # windows of others do not reach the first token
LAST = 2
"""The last layer, so that no unit reads what is planted."""
SHOWN, NOT_SHOWN, ANSWER = 50, 51, 41
SUBJECTS, KNOWN = (30, 31, 32, 33, 34, 35), (41, 42, 43, 44, 45, 46)


def looks_at_second(layer, head):
    """A head whose last token looks at the second, in which nothing but a row's first two tokens is known."""

    def planted(pattern):
        pattern = pattern.clone()
        pattern[..., -1, :] = 0
        pattern[..., -1, 1] = 1
        return pattern

    return cb.Apply("pattern", layer=layer, head=head, function=planted)


def writes(family, words, tokens, *, size=40.0):
    """A model whose L2H0 writes at the end a token for each word that stands second."""
    of = fresh(family)
    model = of.edited([looks_at_second(LAST, 0)])
    z = model.run([[2, word, 5, 6] for word in words], read=["z"])["z", LAST][:, -1, 0].detach()
    weights = of.weights
    with torch.no_grad():
        unembed = weights.W_U.detach()
        toward = (unembed[:, list(tokens)].T - unembed.mean(1)).to(z)
        toward = size * toward / toward.norm(dim=1, keepdim=True)
        post = weights.attn_post_norm[LAST]
        if post is not None:
            toward = toward / post.gamma.to(toward)
        weights.W_O[LAST][0] = (torch.linalg.pinv(z) @ toward).to(weights.W_O[LAST])
    return model


def evidence_with(model, name, measured):
    evidence = collect_evidence(model, corpus(10), {TEXT: ("head_moments",)}, length=40)
    evidence.measured[name] = [measured]
    return evidence


def labeled(evidence, name):
    look, kind = KINDS[name].look(evidence), KINDS[name]
    names = np.array(evidence.names("head"))[labels(look, kind.threshold)]
    return set(names.tolist()), false_labels(look, kind.threshold)


def outcome_of(evidence, name, unit):
    at = evidence.heads.index(unit)
    experiment = EXPERIMENTS[KINDS[name].proof].make(evidence)
    return prove(evidence, experiment, {name: [at]}, {name: [at]}, KINDS, together=False)[name, at]


def shots_at(model, seed, shown=SHOWN):
    """Prompts whose second token tells whether they show the function, and the queries without it."""
    rows = np.random.default_rng(seed).integers(1, 30, (8, 6)).tolist()
    clean, corrupt, zero = ([[2, *front, *row] for row in rows] for front in ([shown], [NOT_SHOWN], [3]))
    prompts = SimpleNamespace(clean=model.tokens(clean), corrupt=model.tokens(corrupt), target=[[ANSWER]] * len(rows))
    return Shots(prompts, model.tokens(zero), 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_carries_a_function_is_found_and_proved_and_no_other(family):
    model = writes(family, (SHOWN, NOT_SHOWN, 3), (ANSWER, 42, 43))
    evidence = evidence_with(model, "functions", effects_of(model, "planted", (shots_at(model, 0), shots_at(model, 1))))
    names, false = labeled(evidence, "function vector")
    # olmo2's L0H2 has a little of it by any mean, shown or shuffled: such are the false labels
    assert names == {"L2H0"} and false <= (family == "olmo2")
    outcome = outcome_of(evidence, "function vector", (LAST, 0))
    assert outcome.proved == "alone" and outcome.effect > 0.2 and outcome.unit == "nats"
    # prompts that show the function no more than others do
    both = (shots_at(model, 0, NOT_SHOWN), shots_at(model, 1, NOT_SHOWN))
    assert labeled(evidence_with(model, "functions", effects_of(model, "none", both)), "function vector")[0] == set()


def claims_at(model, second_is, seed=0, count=24):
    """[start, what is claimed or the subject, some words, the other of them], and two rows like it."""
    rng = np.random.default_rng(seed)
    claims, agrees, elsewhere, claimed, known = [], [], [], [], []
    for i in range(count):
        fact = i % len(SUBJECTS)
        false, other = (int((fact + j) % len(SUBJECTS)) for j in rng.choice(range(1, len(SUBJECTS)), 2, replace=False))
        words = rng.integers(1, 30, 5).tolist()
        for rows, said, subject in ((claims, false, fact), (agrees, fact, fact), (elsewhere, false, other)):
            ends = (KNOWN[said], SUBJECTS[subject])[:: 1 if second_is == "claim" else -1]
            rows.append([2, ends[0], *words, ends[1]])
        claimed.append(KNOWN[false])
        known.append(KNOWN[fact])
    second = np.arange(count) % 2 == 1
    return claims_of(model, *map(model.tokens, (claims, agrees, elsewhere)), claimed, known, second, seed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "second_is"), [("context answer", "claim"), ("memory answer", "subject")])
def test_a_head_that_speaks_for_either_answer_is_found_and_proved_and_no_other(family, name, second_is):
    model = writes(family, KNOWN if second_is == "claim" else SUBJECTS, KNOWN)
    evidence = evidence_with(model, "claims", claims_at(model, second_is))
    for kind in ("context answer", "memory answer"):
        names, false = labeled(evidence, kind)
        assert false == 0 and (names == {"L2H0"} if kind == name else "L2H0" not in names), (kind, names)
    outcome = outcome_of(evidence, name, (LAST, 0))
    assert outcome.proved == "alone" and outcome.effect < -0.2 and outcome.unit == "logits"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_speaks_against_claims_is_neither(family):
    """It has all of DLA(memory) - DLA(context), and knows nothing."""
    model = writes(family, KNOWN, KNOWN, size=-40.0)
    evidence = evidence_with(model, "claims", claims_at(model, "claim"))
    (claims,) = evidence.of_answers("claims")
    at = evidence.heads.index((LAST, 0))
    assert -claims.effect[0, at].mean() > 0.1
    assert not {"L2H0"} & (labeled(evidence, "context answer")[0] | labeled(evidence, "memory answer")[0])


def test_meadow_s_heads_for_contexts_and_memory_are_proved_and_it_has_none_for_functions():
    model = cb.load("meadow")
    found = atlas(model, ["Mary went home."] * 8, kinds=["function vector", "context answer", "memory answer"], top=3)
    proved = {(f.kind, f.component) for f in found.findings if f.grade == "proved"}
    assert ("context answer", "L2H0") in proved and ("memory answer", "L1H2") in proved
    assert all(report.false_labels == 0 for report in found.kinds)
    assert not [f for f in found.findings if f.kind == "function vector"]


def test_claims_name_what_is_claimed_and_halves_share_no_subject():
    model = cb.load("meadow")
    (claims,) = known_claims_of(model, 0)
    text = ["".join(map(model.token_text, row.tolist())) for row in claims.claims.host_ids]
    agrees = ["".join(map(model.token_text, row.tolist())) for row in claims.agrees.host_ids]
    subjects: tuple[set, set] = (set(), set())
    for i, (one, other) in enumerate(zip(text, agrees, strict=True)):
        assert model.token_text(claims.claimed[i]) in one and model.token_text(claims.known[i]) in other
        assert one.partition(". ")[2] == other.partition(". ")[2]
        subjects[int(claims.second[i])].add(one.rpartition(" of ")[2])
    assert not subjects[0] & subjects[1] and all(subjects)


def test_what_the_model_cannot_do_is_said(monkeypatch):
    for measure in (known_functions, known_claims_of):
        with pytest.raises(SiteAbsent, match="need a tokenizer"):
            measure(fresh("gpt2"), 0)
    model = cb.load("meadow")
    monkeypatch.setattr(answers_of_heads, "FUNCTIONS", {"past": answers_of_heads.FUNCTIONS["past"]})
    with pytest.raises(SiteAbsent, match="5 examples of none of past make the model give its answers"):
        known_functions(model, 0)
    (claims,) = known_claims_of(model, 0)
    with pytest.raises(SiteAbsent, match="facts of other answers"):
        one = replace(claims, claimed=claims.claimed[:2], known=claims.claimed[1::-1])
        claims_of(model, claims.claims, claims.agrees, claims.elsewhere, one.claimed, one.known, claims.second, 0)
