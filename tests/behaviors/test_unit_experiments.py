"""Experiments prove planted neurons and heads, and nothing beside them; what stands still is what the label claims."""

import dataclasses

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.atlas import atlas_of
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import KINDS, kinds_of
from caseback.behaviors.looking import Step, run_steps
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
    clock = Clock()
    within = Within(60.0, clock=clock)
    assert within.tokens(1000.0, None) == 16_000 and within.tokens(1000.0, 500) == 500
    assert within.rows(14.0, 10) == 16 and within.rows(1e6, 10) == 64 and within.rows(1e-6, 10) == 8
    assert within.sentences(10.0, [20] * 9) == 4 and within.sentences(1e4, [20] * 9) == 9
    clock.now = 50.0  # what is left by now is less than the share of the text
    assert within.tokens(1000.0, None) == 8_000 and within.left == 10
    assert within.fits("this", 9.0) and not within.fits("that", 11.0)
    clock.now = 70.0
    assert within.left == 0
    within.end_of_text(9_000, 16_000, None)  # all of it was read
    within.end_of_text(500, 500, 500)  # as many as were asked for
    within.end_of_text(16_020, 16_000, None)
    assert within.left_out == [
        "48 of 64 rows of random tokens",
        "56 of 64 rows of random tokens",
        "5 of 9 sentences",
        "that (about 11 s)",
        "text beyond 16,000 tokens",
    ]


class Clock:
    """Stands where it is put."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def _steps(clock, takes, failing=()):
    """Looks that take so many seconds each, by name with their works."""

    def run(name, works):
        done = set().union(*(w for n, w in ran))
        ran.append((name, works))
        clock.now += sum(takes[work] for work in works if work not in done)
        if name in failing:
            raise CasebackError("absent")
        return name

    ran = []
    names = {"tables": (), "small": ("small",), "large": ("large",), "both": ("small", "large"), "huge": ("huge",)}
    return [Step(name, works, lambda n=name, w=works: run(n, w)) for name, works in names.items()], ran


@pytest.fixture
def works(monkeypatch):
    """Works of 1, 8 and 100 seconds, where an operation takes a second."""
    every = {"small": lambda _: 1, "large": lambda _: 8, "huge": lambda _: 100}
    monkeypatch.setattr("caseback.behaviors.costs.WORKS", every)
    monkeypatch.setattr("caseback.behaviors.looking.HELD", frozenset(every))
    monkeypatch.setattr("caseback.behaviors.looking.proof_operations", lambda _: 7)
    return {"small": 1.0, "large": 8.0, "huge": 100.0}


@pytest.fixture(scope="module")
def meadow_evidence():
    return collect_evidence(cb.load("meadow"), None, {"fresh": ("head_moments",)})


def test_looks_that_fit_are_run_the_cheapest_first(works, meadow_evidence):
    clock = Clock()
    within = Within(30.0, clock=clock, speed=1.0)
    steps, ran = _steps(clock, works)
    results, missing = run_steps(steps[::-1], meadow_evidence, within)
    # what "both" needs is done by then
    assert [name for name, _ in ran] == ["tables", "small", "large", "both"] and clock.now == 9
    assert list(results) == [name for name, _ in ran]
    assert missing == {"huge": "left out for time: it would take about 100 s"}
    assert within.left_out == ["huge (about 100 s)"]


def test_what_looks_truly_took_corrects_the_rest(works, meadow_evidence):
    """With the small one at 5 seconds in place of 1 the large one takes 8 (1 + 5) / (1 + 1) = 24 of 20 that are left."""
    clock = Clock()
    within = Within(25.0, clock=clock, speed=1.0)
    steps, ran = _steps(clock, {**works, "small": 5.0})
    _, missing = run_steps(steps, meadow_evidence, within)
    assert [name for name, _ in ran] == ["tables", "small"]
    assert missing["large"] == "left out for time: it would take about 24 s" and within.left == 20


def test_looks_leave_to_proofs_their_share_and_tables_are_always_read(works, meadow_evidence):
    clock = Clock()
    within = Within(16.0, clock=clock, speed=1.0)
    steps, ran = _steps(clock, works, failing=["small"])
    results, missing = run_steps(steps, meadow_evidence, within, keep=0.5)
    assert list(results) == ["tables"] and missing["small"] == "absent"
    # a look that gave nothing is no measurement of what others take
    assert missing["large"] == "left out for time: it would take about 8 s"
    clock.now = 100.0
    again, ran = _steps(clock, works)
    assert list(run_steps(again, meadow_evidence, within)[0]) == ["tables"]
    # without a time all are run as they stand
    assert list(run_steps(again, meadow_evidence)[0]) == [step.name for step in again]
    # half of twelve seconds holds no proof: looks have all of them
    clock = Clock()
    steps, ran = _steps(clock, works)
    some, _ = run_steps(steps, meadow_evidence, Within(12.0, clock=clock, speed=1.0), keep=0.5)
    assert list(some) == ["tables", "small", "large", "both"]


def test_every_look_says_what_it_computes():
    from caseback.behaviors.costs import WORKS, Shape, operations
    from caseback.behaviors.stream.facts import WAYS

    small = Shape(layers=4, heads=20, d_head=32, d_model=160, vocab=2000, neurons=2560, parameters=10**6)
    large = Shape(layers=8, heads=40, d_head=64, d_model=320, vocab=4000, neurons=5120, parameters=10**7)
    named = {work for one in [*KINDS.values(), *WAYS] for work in one.works}
    assert named == set(WORKS)
    assert all(0 < operations([work], set(), small) < operations([work], set(), large) for work in named)
    assert all(kind.works for kind in KINDS.values() if not kind.needs)


def test_what_does_not_fit_is_left_out_and_said(meadow_evidence):
    clock = Clock()
    within = Within(1.0, clock=clock, speed=1e-9)
    found = atlas_of(meadow_evidence, kinds_of(["copying", "current token"]), top=2, within=within)
    copying, _ = found.kinds
    assert copying.missing.startswith("left out for time: it would take about")
    assert found.about["left out"].startswith("copying (about")
    # the look fits, and takes so long that no proof does

    def slow(evidence):
        clock.now = 9.0
        return KINDS["copying"].look(evidence)

    clock.now = 0.0
    within = Within(1.0, clock=clock, speed=1e30)
    kinds = [dataclasses.replace(KINDS["copying"], look=slow)]
    found = atlas_of(meadow_evidence, kinds, top=2, within=within)
    assert "of 2 candidates by 'second copy' (about" in found.about["left out"]
    assert found.kinds[0].unproved.startswith("left out for time")
    assert atlas_of(meadow_evidence, kinds_of(["copying"]), top=1, within=Within(1e4)).about["left out"] == "nothing"


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
    plans = proving.plans_of(evidence, experiment, {"copying": [3, 7]}, {"copying": []}, kinds, together=True)
    some, why = proving.fitting(evidence, experiment, plans, 10.0)
    assert [list(plan.matched) for plan in some] == [[3, 7]] and not why
    assert measured == [1, 3]
    none, why = proving.fitting(evidence, experiment, plans, 3.0)
    assert not none and why.startswith("no time: one unit takes about 2.0 s")
