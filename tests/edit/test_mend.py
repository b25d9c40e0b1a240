"""MEND: what it starts from, what its training follows, and that its edits are like all others."""

import copy

import pytest
import torch

import caseback as cb
import shelf
from caseback.edit import Fact, applied, fit_mend, load_knowledge_edit, load_mend, mend, save_knowledge_edit, save_mend
from caseback.edit.knowledge_edit import change_of
from caseback.edit.mend import gradient_factors
from caseback.edit.mend_training import _asked, outer_loss, untrained, with_moments
from caseback.errors import EditError, LoadError
from caseback.jobs.checkpoint import Checkpoint

CAPITAL = "The capital of {} is"
SPAIN = ("The capital of Spain is", "Madrid")
ITALY = Fact(CAPITAL, "Italy", "Oslo", "Rome", ["The capital city of Italy is called"], [SPAIN, ("The dog", "ran")])
FRANCE = Fact(CAPITAL, "France", "Rome, the", "Paris", neighbors=[SPAIN])
OTHERS = [
    Fact(CAPITAL, who, new, neighbors=[SPAIN])
    for who, new in (("Norway", "Rome"), ("Poland", "Oslo"), ("Japan", "Rome"))
]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def exact():
    """The same in float64."""
    meadow = cb.load("meadow")
    return cb.load(copy.deepcopy(meadow.hf).double(), tokenizer=meadow.tokenizer)


@pytest.fixture(scope="module")
def editor(model):
    return fit_mend(model, OTHERS, [0, 2], rank=8, epochs=3, batch_size=2, lr=1e-3)


def disturbed(editor, seed=0):
    """The network with all its parameters moved, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    moved = {
        name: x if name.endswith((".mean", ".deviation")) else x + 0.1 * torch.randn(x.shape, generator=generator).to(x)
        for name, x in editor.parameters.items()
    }
    return type(editor)(editor.sites, editor.networks, moved, editor.layers, editor.model)


def test_an_untrained_network_makes_a_step_of_fine_tuning(exact):
    """Beside autograd at the weights themselves: mean surprise of the answer's pieces."""
    network = untrained(exact, [0, 2], rank=4, rate=0.03)
    (edit,) = mend(exact, [FRANCE], network)
    hf = copy.deepcopy(exact.hf)
    own = [hf.transformer.h[i].mlp.c_proj for i in (0, 2)]
    for module in own:
        module.weight.requires_grad_()
    pieces = exact.tokenizer(" Rome, the", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    ids = exact.tokens(FRANCE.text).ids[0].tolist() + pieces
    log_p = hf(torch.tensor([ids])).logits[0].log_softmax(-1)[-len(pieces) - 1 : -1]
    (-log_p[torch.arange(len(pieces)), pieces].mean()).backward()
    for term, module in zip(edit.edits, own, strict=True):
        step = -0.03 * module.weight.grad
        assert float(step.abs().max()) > 1e-4
        torch.testing.assert_close(change_of(term).T, step, rtol=1e-9, atol=1e-12)


def test_the_outer_loss_has_the_gradient_of_finite_differences(exact):
    facts = [ITALY, FRANCE]
    network = disturbed(with_moments(exact, untrained(exact, [0, 2], rank=4, rate=1e-3), facts))
    asked = [_asked(exact, fact) for fact in facts]
    names = [name for name in network.parameters if not name.endswith((".mean", ".deviation"))]

    def loss():
        return outer_loss(exact, network, facts, asked, 0.1)

    for name in names:
        network.parameters[name].requires_grad_()
    slopes = dict(zip(names, torch.autograd.grad(loss(), [network.parameters[n] for n in names]), strict=True))
    for name in names:
        x = network.parameters[name].detach()
        along = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
        along, step = along / along.norm(), 1e-5
        values = []
        for sign in (1, -1):
            network.parameters[name].data += sign * step * along
            values.append(float(loss().detach()))
            network.parameters[name].data -= sign * step * along
        difference, slope = (values[0] - values[1]) / (2 * step), float((slopes[name] * along).sum())
        assert slope != 0 and difference == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_edits_of_a_step_do_not_meet(exact):
    """The loss of two facts is the mean of each, whose model stands under its own edit; by plain runs."""
    network = disturbed(with_moments(exact, untrained(exact, [0, 2], rank=4, rate=1e-3), [ITALY, FRANCE]))
    both = outer_loss(exact, network, [ITALY, FRANCE], [_asked(exact, f) for f in (ITALY, FRANCE)], 0.1)
    total = 0.0
    for fact in (ITALY, FRANCE):
        after = mend(exact, [fact], network)[0].on(exact)
        pieces = exact.tokenizer(f" {fact.new}", add_special_tokens=False)["input_ids"]
        surprise, moved = [], []
        for text in (fact.text, *fact.paraphrases):
            ids = exact.tokens(text).ids[0].tolist() + pieces
            log_p = after.run([ids]).logits[0].log_softmax(-1)[-len(pieces) - 1 : -1]
            surprise.append(float(-log_p[torch.arange(len(pieces)), pieces].mean()))
        for text, _ in fact.neighbors:
            was, now = (m.run(text).logits[0, -1].log_softmax(-1) for m in (exact, after))
            moved.append(float((was.exp() * (was - now)).sum()))
        total += 0.1 * sum(surprise) / len(surprise) + sum(moved) / len(moved)
    assert float(both.detach()) == pytest.approx(total / 2, rel=1e-9)


def test_factors_have_mean_and_deviation_of_the_facts(exact):
    network = with_moments(exact, untrained(exact, [0, 2], rank=4, rate=1.0), OTHERS)
    assert list(network.networks) == [0, 0] and network.parameters["0.0.scale"].shape == (2, 800)
    rows = [
        torch.cat(sides, -1)[sides[1].any(-1)]
        for fact in OTHERS
        for sides in gradient_factors(exact, [fact], network.sites)
    ]
    z = torch.cat(rows)
    torch.testing.assert_close(network.parameters["0.mean"], z.mean(0))
    deviation, seen = network.parameters["0.deviation"], z.std(0, correction=0)
    wide = deviation > seen * (1 + 1e-9)
    torch.testing.assert_close(deviation[~wide], seen[~wide])
    assert bool((deviation[wide] > 0).all()) and float(wide.double().mean()) < 0.5


def test_scale_and_shift_are_each_matrix_s_own(exact):
    network = disturbed(untrained(exact, [0, 2], rank=4, rate=1e-3))
    before = [change_of(one) for one in mend(exact, [ITALY], network)[0].edits]
    network.parameters["0.1.shift"][1] += 1.0
    network.parameters["rates"][1] += 1.0
    after = [change_of(one) for one in mend(exact, [ITALY], network)[0].edits]
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


def test_training_goes_on_where_it_was_interrupted(model, editor, tmp_path):
    how = {"rank": 8, "epochs": 3, "batch_size": 2, "lr": 1e-3}
    assert len(editor.losses) == 3 and editor.losses[-1] < editor.losses[0]
    path = tmp_path / "training.npz"

    class Stopped(Exception):
        pass

    write, written = Checkpoint.write, []

    def once(self, tensors, **state):
        write(self, tensors, **state)
        written.append(state)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", once)
        with pytest.raises(Stopped):
            fit_mend(model, OTHERS, [0, 2], checkpoint=path, **how)
    again = fit_mend(model, OTHERS, [0, 2], checkpoint=path, **how)
    assert len(written) == 1 and list(again.losses) == list(editor.losses)
    assert all(torch.equal(x, again.parameters[name]) for name, x in editor.parameters.items())
    other = fit_mend(model, OTHERS, [0, 2], seed=1, **how)
    assert not torch.equal(other.parameters["0.0.read"], editor.parameters["0.0.read"])
    with pytest.raises(LoadError, match="another training"):
        fit_mend(model, OTHERS[:2], [0, 2], checkpoint=path, **how)


def test_held_out_facts_are_judged(model):
    editor = fit_mend(model, OTHERS, [1], rank=4, epochs=2, held_out=[ITALY])
    asked = [_asked(model, ITALY)]
    with torch.no_grad():
        assert editor.held_out[-1] == pytest.approx(float(outer_loss(model, editor, [ITALY], asked, 0.1)), rel=1e-5)


def test_an_edit_is_like_any_other(model, editor, tmp_path):
    save_mend(editor, tmp_path / "network")
    again = load_mend(tmp_path / "network", model)
    assert again.losses == list(editor.losses) and list(again.layers) == [0, 2]
    first, second = mend(model, [ITALY, FRANCE], again)
    (alone,) = mend(model, [FRANCE], editor)
    for one, same in zip(second.edits, alone.edits, strict=True):
        torch.testing.assert_close(change_of(one), change_of(same), rtol=1e-3, atol=1e-7)
    both = first + second
    assert len(both.edits) == 2 and both.layers_read == [0, 2] and both.method == "MEND"
    before = model.run(ITALY.text).logits
    changed = both.on(model).run(ITALY.text).logits
    assert not torch.allclose(changed, before, atol=1e-4) and torch.equal(model.run(ITALY.text).logits, before)
    save_knowledge_edit(both, tmp_path / "edit", model=model)
    assert torch.equal(load_knowledge_edit(tmp_path / "edit", model).on(model).run(ITALY.text).logits, changed)
    ours, theirs = model.hf.transformer.h, applied(model, both).hf.transformer.h
    moved = [not torch.equal(a.mlp.c_proj.weight, b.mlp.c_proj.weight) for a, b in zip(ours, theirs, strict=True)]
    assert moved == [True, False, True, False]
    other = cb.load(copy.deepcopy(model.hf), tokenizer=model.tokenizer)
    with torch.no_grad():
        other.hf.transformer.h[0].mlp.c_proj.bias[0] += 1
    with pytest.raises(LoadError, match="another model"):
        load_mend(tmp_path / "network", other)


def test_what_it_cannot_be_trained_on_is_refused(model, editor):
    with pytest.raises(EditError, match="has no neighbors"):
        fit_mend(model, [Fact(CAPITAL, "Italy", "Oslo", "Rome")], [1])
    with pytest.raises(EditError, match="stands under edits"):
        fit_mend(mend(model, [ITALY], editor)[0].on(model), OTHERS, [1])
    with pytest.raises(EditError, match="layer 9 is out of range"):
        fit_mend(model, OTHERS, [9])
    with pytest.raises(EditError, match="already answers"):
        mend(model, [Fact(CAPITAL, "Italy", "Rome")], editor)
    with pytest.raises(EditError, match="train one for it"):
        mend(shelf.model("gpt2"), [ITALY], editor, check=False)
