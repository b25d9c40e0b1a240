"""Facts written into models: exact where they say so, undone by leaving out, as data in files."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.edit import (
    Fact,
    KeyMoments,
    Search,
    alphaedit,
    applied,
    demonstrations,
    emmet,
    fine_tuned,
    generation_entropy,
    grace,
    key_moments,
    load_key_moments,
    load_knowledge_edit,
    memit,
    of_generation,
    relation_facts,
    rome,
    save_key_moments,
    save_knowledge_edit,
    sequential,
)
from caseback.edit.memit import _before_a_norm
from caseback.edit.places import expect_editable, in_contexts, located, states_at, write_site
from caseback.edit.rome import keys_in
from caseback.edit.values import optimized
from caseback.errors import EditError, LoadError
from caseback.jobs.warned import heard
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.running.affine import Codebook

CAPITAL = "The capital of {} is"
ITALY = Fact(CAPITAL, "Italy", "Oslo", "Rome", neighbors=[("The capital of Spain is", "Madrid")])
SPAIN = Fact(CAPITAL, "Spain", "Oslo", "Madrid")
TEXTS = [
    f"{fact.text} {fact.true}."
    for relation in ("language", "capital")
    for fact in relation_facts(relation)
    if fact.subject not in ("Italy", "Spain")
]
TEXTS += ["Mary went to the store.", "The dog ran to the park."]
FREE = Search(kl=0.0, steps=40)


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def moments(model):
    return key_moments(model, TEXTS, [0, 1])


def written_by(model):
    """The first layer's MLP output matrix."""
    module = model.anatomy.layers[0].w_out
    assert module is not None
    return weight_matrix(module)


def sides(edit):
    """What an edit writes and reads."""
    assert isinstance(edit, cb.SideTerm)
    return edit.left, edit.right


def answers(model, *facts):
    return [text.split()[-1] for text in model.text(model.generate([f.text for f in facts], max_new_tokens=1))]


def test_rome_writes_its_value_at_its_key(model, moments):
    how = {"moments": moments, "ridge": 1e-3, "contexts": ["The dog ran."], "search": FREE}
    (edit,) = rome(model, [ITALY], 0, **how)
    left, right = sides(edit.edits[0])
    key, written = keys_in(model, [ITALY], 0, ["The dog ran."], bare_share=0.5)
    bare, start = keys_in(model, [ITALY], 0, (), bare_share=1.0)
    assert float((right @ key[0] - 1).abs()) < 1e-12
    site = write_site(model, 0)
    delta, _ = optimized(model, [ITALY], site, start, ["The dog ran."], FREE)
    assert torch.allclose(written + left, start + delta, atol=1e-5)
    assert answers(edit.on(model), ITALY, SPAIN) == ["Oslo", "Madrid"]
    published = rome(model, [ITALY], 0, published=True, **how)
    _, right = sides(published[0].edits[0])
    assert float((right @ bare[0] - 1).abs()) < 1e-12 and abs(float(right @ key[0]) - 1) > 1e-3


def test_facts_together_are_each_by_itself(model):
    search = Search(steps=4, enough=0.0)
    together = rome(model, [ITALY, SPAIN], 0, contexts=["The dog ran."], search=search)
    (alone,) = rome(model, [SPAIN], 0, contexts=["The dog ran."], search=search)
    assert torch.allclose(sides(together[1].edits[0])[0], sides(alone.edits[0])[0], atol=1e-3)
    assert torch.allclose(sides(together[1].edits[0])[1], sides(alone.edits[0])[1], atol=1e-5)


def test_the_loss_is_that_of_whole_runs(model):
    """Beside plain runs: mean surprise over contexts and pieces, KL at the subject, decay."""
    fact = Fact(CAPITAL, "France", "Rome, the", "Paris")
    contexts, search = ["The dog ran."], Search(steps=1, lr=0.3, enough=0.0)
    site = write_site(model, 1)
    _, start = keys_in(model, [fact], 1, (), bare_share=1.0)
    delta, loss = optimized(model, [fact], site, start, contexts, search)

    def under(text, at):
        return cb.Add(site.name, delta[0], pos=at)

    rows, surprise = in_contexts(model, [fact], contexts), []
    pieces = model.tokenizer(" Rome, the", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    for ids, at in zip(rows.ids, rows.at, strict=True):
        run = model.run([ids + pieces], edits=under(ids, at))
        log_p = run.logits[0].log_softmax(-1)[len(ids) - 1 : -1]
        surprise.append(-log_p[torch.arange(len(pieces)), pieces].mean())
    own = located(model, ["France is a"], [(0, 6)])
    was, now = (
        model.run(own.ids, edits=e).logits[0, own.at[0]].log_softmax(-1) for e in ([], under(own.ids[0], own.at[0]))
    )
    expected = torch.stack(surprise).mean() + 0.0625 * (was.exp() * (was - now)).sum()
    expected = expected + 0.5 * delta.norm() / start.norm() ** 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
def test_batches_of_facts(model, moments, method):
    options = {"moments": moments, "contexts": [], "search": Search(clamp=2.0, kl=0.0, steps=40)}
    options |= {
        "memit": {"weight": 1e-4, "ridge": 1e-2},
        "emmet": {"ridge": 1e-2},
        "alphaedit": {"ridge": 1e-3, "share": 0.3},
    }[method]
    edit = {"memit": memit, "emmet": emmet, "alphaedit": alphaedit}[method](model, [ITALY, SPAIN], [0, 1], **options)
    for fact in (ITALY, SPAIN):
        before, after = (cb.log_prob(" Oslo")(m.run(fact.text)).item() for m in (model, edit.on(model)))
        assert after > before + 1
    assert [sides(term)[0].shape[0] for term in edit.edits] == [2, 2]
    if method == "emmet":
        keys, _ = keys_in(model, [ITALY, SPAIN], 0, (), bare_share=1.0)
        assert torch.allclose(sides(edit.edits[0])[1] @ keys.T, torch.eye(2).double(), atol=1e-9)
    if method == "alphaedit":
        assert len(edit.checks["free"]) == 2 and all(0 < n < 640 for n in edit.checks["free"])


@pytest.mark.parametrize("ridge", [10.0, 1e-3])
def test_the_written_share_is_that_of_the_key_s_free_part(model, moments, ridge):
    """|P k|^2 / (|P k|^2 + ridge) of one fact, beside what the edited matrix writes more at that key."""
    options = {"moments": moments, "share": 0.3, "ridge": ridge, "contexts": [], "search": Search(clamp=2.0, steps=5)}
    with heard() as warned:
        edit = alphaedit(model, [ITALY], [0], **options)
    key, _ = keys_in(model, [ITALY], 0, (), bare_share=1.0)
    values, vectors = torch.linalg.eigh(moments.at(0))
    basis = vectors[:, values.cumsum(0) / values.sum() <= 0.3]
    square = float((key @ basis).square().sum())
    left, right = sides(edit.edits[0])
    assert edit.checks["written"] == [[pytest.approx(square / (square + ridge), rel=1e-6)]]
    assert float((right @ key[0])[0]) == pytest.approx(edit.checks["written"][0][0])
    assert len(warned) == (square / (square + ridge) < 0.5)
    assert all("give a smaller ridge than 10, or a larger share than 0.3" in words for words in warned)


def test_memit_s_written_share_falls_with_the_weight(model, moments):
    key, _ = keys_in(model, [ITALY], 0, (), bare_share=1.0)
    c = moments.at(0) + 1e-2 * moments.at(0).diagonal().mean() * torch.eye(640)
    own = float(key[0] @ torch.linalg.solve(c, key[0]))
    options = {"moments": moments, "ridge": 1e-2, "contexts": [], "search": Search(clamp=0.75, steps=2)}
    for weight in (1.0, 15_000.0):
        with heard() as warned:
            edit = memit(model, [ITALY], [0], weight=weight, **options)
        assert edit.checks["written"] == [[pytest.approx(own / (own + weight), rel=1e-6)]]
        assert [f"weight={weight:g} holds C" in words for words in warned] == [True] * (own < weight)


def test_layers_share_what_is_left(model, moments):
    """MEMIT by hand: layer by layer, fresh keys, the residual over the layers left."""
    options = {"moments": moments, "weight": 5.0, "ridge": 1e-2, "contexts": [], "search": Search(clamp=0.75)}
    edit = memit(model, [ITALY], [0, 1], **options)
    bare, end = in_contexts(model, [ITALY], ()), ("resid_post", 1)
    (start,) = states_at(model, bare, [end])
    delta, _ = optimized(model, [ITALY], next(iter(model.anatomy.sites(end))), start, (), options["search"])
    now, edits = model, []
    for layer, left in ((0, 2), (1, 1)):
        key, present = states_at(now, bare, [("mlp_post", layer), end])
        c = moments.at(layer) + 1e-2 * moments.at(layer).diagonal().mean() * torch.eye(640)
        residual = (start + delta - present) / left
        change = residual.T @ key @ torch.linalg.inv(5.0 * c + key.T @ key)
        edits.append(cb.SideTerm(write_site(model, layer).name, torch.eye(160).double(), change))
        now = model.edited(edits)
    logits = [m.run(ITALY.text).logits for m in (now, edit.on(model))]
    assert torch.allclose(logits[0], logits[1], atol=2e-3)


def test_an_edit_is_undone_added_applied_and_saved(model, moments, tmp_path):
    before = {name: x.clone() for name, x in model.hf.state_dict().items()}
    first, second = rome(model, [ITALY, SPAIN], 0, moments=moments, ridge=1e-3, contexts=[], search=FREE)
    both = first + second
    assert len(both.edits) == 1 and sides(both.edits[0])[0].shape[0] == 2
    assert answers(both.on(model), ITALY, SPAIN) == ["Oslo", "Oslo"]
    chained = second.on(first.on(model)).run(ITALY.text).logits
    assert torch.allclose(both.on(model).run(ITALY.text).logits, chained, atol=1e-4)
    other = applied(model, both)
    assert torch.allclose(other.run(ITALY.text).logits, chained, atol=1e-3)
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items())
    assert not torch.equal(written_by(other), written_by(model))
    save_knowledge_edit(both, tmp_path / "a", model=model)
    again = load_knowledge_edit(tmp_path / "a", model)
    assert again.facts == both.facts and again.method == both.method
    assert torch.equal(again.on(model).run(ITALY.text).logits, both.on(model).run(ITALY.text).logits)
    with pytest.raises(LoadError, match="another model"):
        load_knowledge_edit(tmp_path / "a", other)
    save_key_moments(moments, tmp_path / "c")
    assert torch.equal(load_key_moments(tmp_path / "c", model).moment, moments.moment)
    with pytest.raises(LoadError, match="another model"):
        load_key_moments(tmp_path / "c", other)
    with pytest.raises(LoadError, match="load_key_moments reads it"):
        load_knowledge_edit(tmp_path / "c", model)


def test_moments_are_uncentered_means_of_keys(model):
    texts = ["Mary went to the store.", "the cat"]
    ours, total, n = key_moments(model, texts, [1]), torch.zeros(640, 640).double(), 0
    for text in texts:
        keys = model.run(text, read=[("mlp_post", 1)])["mlp_post", 1][0].double()
        total, n = total + keys.T @ keys, n + len(keys)
    assert ours.n_tokens == n and torch.allclose(ours.at(1), total / n, rtol=1e-4, atol=1e-5)
    assert isinstance(ours, KeyMoments)


def test_constrained_fine_tuning_keeps_its_bound(model):
    edit = fine_tuned(model, [ITALY, SPAIN], 0, bound=0.01, lr=0.01)
    _, right = sides(edit.edits[0])
    assert float(right.abs().max()) == pytest.approx(0.01, rel=1e-3)
    assert edit.checks["loss"][-1] < edit.checks["loss"][0]
    assert answers(edit.on(model), ITALY, SPAIN) == ["Oslo", "Oslo"]


def test_a_codebook_answers_its_prompts_and_nothing_else(model):
    first = grace(model, [ITALY], 2)
    both = grace(model, [SPAIN], 2, book=first)
    japan = Fact(CAPITAL, "Japan", "Oslo", "Tokyo")
    assert answers(both.on(model), ITALY, SPAIN) == ["Oslo", "Oslo"]
    other = "Mary and John went to the store."
    assert torch.equal(both.on(model).run(other).logits, model.run(other).logits)
    assert answers(first.on(model), SPAIN, japan) == answers(model, SPAIN, japan)
    assert both.checks["answers"] == [" Oslo", " Oslo"]


def test_the_curve_counts_facts(model):
    def write(now, facts, _):
        return rome(now, facts, 0, contexts=[], check=False)[0]

    edit, curve = sequential(
        model, relation_facts("capital", count=3), write, texts=["Mary went to the store."], one_by_one=True
    )
    assert curve["k"].values.tolist() == [1, 2, 3] and len(edit.facts) == 3
    assert (curve.sel(measure="change").diff("k") > 0).all() and float(curve.sel(k=1, measure="kl")) >= 0


def test_a_codebook_grows_in_place_of_standing_beside_itself(model):
    def write(_now, facts, before):
        return grace(model, facts, 2, book=before, check=False)

    facts = relation_facts("capital", count=3)
    edit, _ = sequential(model, facts, write, one_by_one=True)
    assert len(edit.edits) == 1 and [str(fact) for fact in edit.facts] == [str(fact) for fact in facts]
    (grown,), (at_once,) = edit.edits, grace(model, facts, 2, check=False).edits
    assert isinstance(grown, Codebook) and isinstance(at_once, Codebook)
    # the model runs in float32
    torch.testing.assert_close(grown.keys.float(), at_once.keys.float())
    torch.testing.assert_close(grown.radii, at_once.radii)


def test_what_stands_before_an_opening_is_not_counted(model):
    told = "New Fact: the dog ran to the park."
    fact = Fact(CAPITAL, "Italy", "Oslo", "Rome", openings=["Mary went to"])
    whole = model.text(model.generate(f"{told} Mary went to", max_new_tokens=8))[0]
    fluency = of_generation(model, [fact], max_new_tokens=8, context=told).sel(measure="fluency")
    assert float(fluency[0]) == generation_entropy(whole.removeprefix(f"{told} "))
    assert float(fluency[0]) != generation_entropy(whole)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gptj", "falcon_alibi", "olmo2", "granite"])
def test_values_stand_before_a_norm_on_every_family(name):
    """What is optimized there is what the matrix then writes: the edited run is the run with delta added."""
    model = shelf.model(name)
    site = write_site(model, 1)
    key, written = (model.run([[5, 1, 2]], read=[s])[s][0, 1] for s in (("mlp_post", 1), site.name))
    delta = torch.randn(len(written), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    term = cb.SideTerm(site.name, delta[None], (key / (key @ key))[None])
    run = model.run([[5, 1, 2]], read=[site.name], edits=term)
    assert torch.allclose(run[site.name][0, 1], written + delta, atol=1e-10)
    added = model.run([[5, 1, 2]], edits=cb.Add(site.name, delta, pos=1))
    once = model.run([[5, 1, 2]], edits=cb.SideTerm(site.name, term.left, term.right, pos=1))
    assert torch.allclose(once.logits, added.logits, atol=1e-6)


def test_what_cannot_be_edited_is_refused_with_the_reason(model, moments):
    with pytest.raises(EditError, match="each expert has its own neurons"):
        write_site(shelf.model("mixtral"), 0)
    with pytest.raises(EditError, match="answer number"):
        rome(model, [Fact(CAPITAL, "France", "Rome", "Madrid")], 0)
    with pytest.raises(EditError, match="already answers"):
        expect_editable(model, [Fact(CAPITAL, "France", "Paris")])
    with pytest.raises(EditError, match="the present one"):
        Fact(CAPITAL, "France", "Paris", " Paris")
    with pytest.raises(EditError, match="occurs 0 times"):
        Fact("The capital of Spain is", "France", "Rome")
    with pytest.raises(EditError, match="occurs 2 times"):
        Fact("France, the capital of France is", "France", "Rome")
    with pytest.raises(EditError, match="layer 2 is edited"):
        rome(model, [ITALY], 2, moments=moments, contexts=[])
    with pytest.raises(EditError, match="50 facts were asked for|facts were asked for"):
        relation_facts("capital", count=1000)
    with pytest.raises(EditError, match="under edits"):
        key_moments(model.edited(cb.Zero("z", layer=0)), TEXTS, [0])
    with pytest.raises(EditError, match="expected what grace gave"):
        grace(model, [ITALY], 1, book=grace(model, [SPAIN], 2))
    with pytest.raises(EditError, match="a norm stands behind"):
        _before_a_norm(shelf.model("gemma2"), 0, torch.zeros(1, 32))


def test_the_subject_is_found_by_its_characters(model):
    rows = in_contexts(model, [Fact("{} is a", "Grace Turner", "cook")], ["The dog ran."])
    for ids, at in zip(rows.ids, rows.at, strict=True):
        assert model.token_text(ids[at]).strip() == "Turner"


def test_facts_in_context_are_told_before_the_prompt():
    context = demonstrations(ITALY, [SPAIN, ITALY], k=4)
    assert context.count("New Fact: ") == 2 and context.endswith("New Fact: The capital of Italy is Oslo\nPrompt:")


def test_facts_are_not_written_behind_which_an_edit_stands(model):
    edited = model.edited(cb.Scale("mlp_out", 0.5, layer=1))
    with pytest.raises(EditError, match="mlp_out.1 is edited"):
        write_site(edited, 1)
    assert write_site(edited, 0) == write_site(model, 0)
