"""Experiments prove planted neurons and heads, and nothing beside them; what stands still is what the label claims."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.atlas import atlas_of
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import KINDS, kinds_of
from caseback.behaviors.neurons import switches
from caseback.behaviors.proofs import ends, only_suppression, proving, windows
from caseback.behaviors.proofs.experiments import EXPERIMENTS, second_copy
from caseback.behaviors.proofs.proving import prove
from caseback.behaviors.within import Within, seconds_of
from caseback.errors import CasebackError, EditError
from caseback.organisms.compiled import build
from planted_neurons import ALL_NEEDS, corpus, fresh
from zoo import tiny

FAMILIES = ("gpt2", "llama", "bloom", "gptj", "olmo2")
NEEDS = {TEXT: (*ALL_NEEDS[TEXT], "head_moments")}


def evidence_of(model, texts=None):
    return collect_evidence(model, corpus(40) if texts is None else texts, NEEDS, length=40)


def outcome_of(evidence, name, unit):
    """A neuron's proof by the experiment of its kind."""
    kind = KINDS[name]
    at = evidence.neurons.index(unit)
    recipe = EXPERIMENTS[kind.proof]
    experiment = recipe.make(evidence) if recipe.make else recipe.each(evidence, kind.look(evidence), at)
    return prove(evidence, experiment, {name: [at]}, {name: [at]}, KINDS, together=False)[name, at]


def written_as(model, layer, row):
    norm = model.weights.mlp_post_norm[layer]
    return row if norm is None else row / norm.gamma


@pytest.mark.parametrize("family", FAMILIES[:-1])  # behind a norm of the MLP a neuron changes what the others write too
def test_an_entropy_neuron_acts_through_the_norm_alone(family):
    model = fresh(family)
    with torch.no_grad():
        # two dimensions that no token reads: against each other, since a norm may take the mean away
        model.anatomy.unembed.weight[:, 11:13] = 0
        model.weights.W_out[2][5] = 0
        model.weights.W_out[2][5, 11:13] = torch.tensor([20.0, -20.0]).double()
    evidence = evidence_of(model)
    outcome = outcome_of(evidence, "entropy", (2, 5))
    assert outcome.effect > 3 * outcome.bound > 0 and outcome.unit == "nats"
    experiment = EXPERIMENTS["entropy"].make(evidence)
    metric, replaced = experiment.still
    still = evidence.model.sweep(experiment.tokens, [replaced(("neuron", 2, 5))], metric)
    assert float(abs(still - still["clean"]).max()) < outcome.effect / 20  # nothing of it reaches the logits otherwise
    tokens = ends.prefixes(evidence)
    site, clean = ends.end_of_stream(evidence, tokens)
    free, frozen = (ends.logits_of(evidence, clean, like) for like in (None, clean))
    torch.testing.assert_close(free, frozen)
    run = model.run(tokens)
    rows = torch.arange(len(tokens))
    torch.testing.assert_close(free, run.logits[rows, run.tokens.column(-1)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frequency_neuron_acts_along_the_unigrams(family):
    model = fresh(family)
    folded = model.weights.folded(centre_vocab=True)
    direction = folded.W_U @ torch.randn(folded.W_U.shape[1], generator=torch.Generator().manual_seed(3)).double()
    logits = direction @ folded.W_U
    p = (logits / logits.std()).softmax(0).numpy()
    with torch.no_grad():
        model.weights.W_out[2][7] = -written_as(model, 2, direction / direction.norm() * 5)
    texts = corpus(60, ids=lambda rng, n: rng.choice(len(p), n, p=p))
    outcome = outcome_of(evidence_of(model, texts), "token frequency", (2, 7))
    assert outcome.proved == "alone" and outcome.effect > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clamped_neuron_writes_the_tokens_of_its_row(family):
    model = fresh(family)
    with torch.no_grad():
        # one dimension of the stream is read by one token alone
        model.anatomy.unembed.weight[:, 11] = 0
        model.anatomy.unembed.weight[20, 11] = 6 * model.anatomy.unembed.weight.std()
        for unit, sign in ((6, 1), (8, -1)):
            model.weights.W_out[2][unit] = written_as(model, 2, sign * 3 * torch.eye(model.d_model).double()[11])
            if model.anatomy.layers[2].w_gate is not None:
                model.weights.W_gate[2][:, unit] = model.weights.W_in[2][:, unit]
    evidence = evidence_of(model)
    risen, fallen = (outcome_of(evidence, name, (2, u)) for name, u in (("prediction", 6), ("suppression", 8)))
    assert risen.proved == "alone" and risen.effect > 1
    assert fallen.proved == "alone" and fallen.effect < -1
    assert not outcome_of(evidence, "prediction", (2, 8)).proved
    assert not outcome_of(evidence, "suppression", (2, 6)).proved


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_switch_moves_the_attention_that_it_names(family):
    model = fresh(family)
    direction = switches.towards_first(evidence_of(model))[-1, 1, 2]
    with torch.no_grad():
        model.weights.W_out[1][6] = 40 * direction / direction.norm()
    evidence = evidence_of(model)
    outcome = outcome_of(evidence, "attention switch", (1, 6))
    assert outcome.proved == "alone" and outcome.unit == "attention of L2H2" and outcome.effect > 0.01


def test_nothing_is_left_of_a_suppressor_but_suppression():
    organism = build("copy_suppression")
    model = organism.model
    rng = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, model.d_vocab, (8,), generator=rng).tolist() for _ in range(60)]
    evidence = collect_evidence(model, texts, {TEXT: ("head_moments",)}, length=9)
    experiment = only_suppression.only_suppression(evidence)
    metric, left = experiment.still
    sizes = {}
    for layer, head in evidence.heads:
        unit = ("head", layer, head)
        swept = model.sweep(experiment.tokens, [experiment.replaced(unit), left(unit)], metric)
        sizes[layer, head] = swept.values.mean(1)
    whole, rest = sizes[1, 0]
    assert whole > 0.01 and rest < whole / 2
    assert sizes[0, 0][1] > 0.9 * sizes[0, 0][0]  # nothing of the copier is suppression


@pytest.mark.parametrize("family", ("gpt2", "llama", "bloom"))
def test_a_window_hides_the_keys_between(family):
    model = cb.load(tiny(family))
    tokens = model.tokens([list(range(1, 31)), list(range(2, 27)), list(range(3, 15))])
    edits = windows.windowed(tokens)(("head", 1, 2))
    pattern = model.run(tokens, read=["pattern"], edits=edits)["pattern", 1]
    for row, length in enumerate(tokens.lengths.tolist()):
        seen = (pattern[row, 2, length - 1] > 0).nonzero().flatten().tolist()
        hidden = set(range(windows.FIRST, length - windows.NEAR))
        assert set(seen) == set(range(length)) - hidden
        assert int((pattern[row, 2, length - 2] > 0).sum()) == length - 1
        assert int((pattern[row, 1, length - 1] > 0).sum()) == length


def test_keys_from_the_end_are_refused():
    model = cb.load(tiny("gpt2"))
    for keys in (slice(4, -2), slice(-3, None), -1):
        with pytest.raises(EditError, match="counted from the start"):
            model.run([[1, 2, 3, 4, 5, 6]], edits=[cb.Knockout(layer=0, head=0, query=-1, key=keys)])


@pytest.mark.parametrize("name", ["induction", "duplicate", "indirect_object", "entropy_neuron", "recall"])
def test_nothing_false_is_proved_in_organisms(name):
    organism = build(name)
    rng = torch.Generator().manual_seed(1)
    length = max(4, (organism.model.context or 12) - 2)
    texts = [torch.randint(0, organism.model.d_vocab, (length,), generator=rng).tolist() for _ in range(30)]
    new = [
        kind for kind in KINDS if KINDS[kind].proof in ("only suppression", "likeliest token", "entropy", "unigrams")
    ]
    new += ["n-gram induction", "fuzzy induction", "anti-induction", "prediction", "suppression"]
    found = cb.behaviors.atlas(organism.model, texts, kinds=new, top=2)
    proved = {(f.component, f.kind) for f in found.findings if f.grade == "proved"}
    # fuzzy matching includes that of the same token; the entropy neuron is one
    known = {"induction": {("L1H0", "fuzzy induction")}, "entropy_neuron": {("L0N0", "entropy")}}
    known["indirect_object"] = {("L4H0", "negative")}  # the negative name mover
    assert proved <= known.get(name, set())


def test_a_time_is_read_and_kept():
    assert seconds_of("90") == seconds_of("90s") == seconds_of(90) == 90 and seconds_of("1.5h") == 5400
    for wrong in ("", "5 days", "-1m", "0", "nan", "5mm", True):
        with pytest.raises(CasebackError, match="expected a time"):
            seconds_of(wrong)
    now = iter([0.0, 30.0, 70.0])
    within = Within(60.0, clock=lambda: next(now))
    assert within.tokens(1000.0, None) == 16_000 and within.tokens(1000.0, 500) == 500
    assert within.rows(10.0, 10) == 16 and within.rows(1e6, 10) == 64 and within.rows(1e-6, 10) == 8
    assert within.left == 30 and within.left == 0
    within.end_of_text(9_000, 16_000, None)  # all of it was read
    within.end_of_text(500, 500, 500)  # as many as were asked for
    within.end_of_text(16_020, 16_000, None)
    assert within.left_out == [
        "48 of 64 rows of random tokens",
        "56 of 64 rows of random tokens",
        "text beyond 16,000 tokens",
    ]


def test_what_does_not_fit_is_left_out_and_said():
    evidence = collect_evidence(cb.load("meadow"), None, {"fresh": ("head_moments",)})
    kinds = kinds_of(["copying"])
    found = atlas_of(evidence, kinds, top=2, within=Within(1e-6))
    assert "of 2 candidates by 'second copy'" in found.about["left out"] and found.kinds[0].unproved.startswith(
        "no time"
    )
    assert atlas_of(evidence, kinds, top=1, within=Within(1e4)).about["left out"] == "nothing"


def test_one_more_set_of_units_costs_what_it_adds_to_a_batch(monkeypatch):
    """In ten seconds fit sets of .1 s each beside a first of 2 s, which by the first one's time would not."""
    evidence = collect_evidence(cb.load("meadow"), None, {"fresh": ("head_moments",)})
    clock, measured = [0.0], []

    def effects(evidence, experiment, sets, progress):
        measured.append(len(sets))
        clock[0] += 2.0 + 0.1 * (len(sets) - 1)
        return np.zeros((len(sets), 4)), np.zeros(len(sets))

    monkeypatch.setattr(proving, "_effects", effects)
    monkeypatch.setattr(proving.time, "monotonic", lambda: clock[0])
    experiment = second_copy(evidence)
    kinds = {"copying": KINDS["copying"]}
    assert set(proving.prove(evidence, experiment, {"copying": [3, 7]}, {"copying": []}, kinds, within=10.0)) == {
        ("copying", 3),
        ("copying", 7),
    }
    assert measured == [1, 3, 20]
    with pytest.raises(CasebackError, match="no time: one unit takes about 2.0 s"):
        proving.prove(evidence, experiment, {"copying": [3, 7]}, {"copying": []}, kinds, within=3.0)
