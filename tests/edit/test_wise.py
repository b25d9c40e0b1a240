"""A side memory: shut it is the model bit by bit, open it answers as asked, and it is data like any other edit."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.edit import Fact, applied, load_knowledge_edit, relation_facts, save_knowledge_edit, wise
from caseback.edit.places import write_site
from caseback.edit.wise import PUBLISHED, merged, routing_loss
from caseback.errors import EditError, LoadError, OutOfRange, UnknownSite
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.running.affine import SideMemory

CAPITAL = "The capital of {} is"
ITALY = Fact(CAPITAL, "Italy", "Oslo", "Rome")
SPAIN = Fact(CAPITAL, "Spain", "Paris", "Madrid")
TEXTS = [f"{fact.text} {fact.true}." for fact in relation_facts("capital") if fact.subject not in ("Italy", "Spain")]
TEXTS += ["Mary went to the store.", "The dog ran to the park."]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow", dtype=torch.float64)


@pytest.fixture(scope="module")
def edit(model):
    return wise(model, [ITALY, SPAIN], 2, TEXTS, steps=200)


def memory_of(edit):
    (memory,) = edit.edits
    assert isinstance(memory, SideMemory)
    return memory


def apart_of(model, edit, texts):
    """|D a| of each text's tokens, by what the model's layer 2 reads."""
    out = []
    for text in texts:
        out.append((model.run(text, read=[("mlp_post", 2)])["mlp_post", 2][0] @ memory_of(edit).change.T).norm(dim=-1))
    return out


def test_a_shut_gate_is_the_model_bit_by_bit_and_an_open_one_the_other_matrix(model, edit):
    site, change = write_site(model, 2).name, memory_of(edit).change
    threshold = memory_of(edit).threshold
    for text in TEXTS:
        assert torch.equal(edit.on(model).run(text).logits, model.run(text).logits)
    before = model.run(ITALY.text, read=[site, ("mlp_post", 2)])
    after = model.run(ITALY.text, read=[site], edits=edit.edits)
    (apart,) = apart_of(model, edit, [ITALY.text])
    is_open = apart >= threshold
    assert bool(is_open[-1]) and not bool(is_open.all())
    module = model.anatomy.module_at(write_site(model, 2))
    other = before["mlp_post", 2][0] @ (weight_matrix(module) + change.T)
    other = other + (0 if module.bias is None else module.bias)
    torch.testing.assert_close(after[site][0][is_open], other[is_open], rtol=1e-10, atol=1e-10)
    assert torch.equal(after[site][0][~is_open], before[site][0][~is_open])


def test_edited_prompts_are_answered_and_the_margins_hold(model, edit):
    said = model.text(edit.on(model).generate([ITALY.text, SPAIN.text, "The capital of Japan is"], max_new_tokens=1))
    assert [text.split()[-1] for text in said] == ["Oslo", "Paris", "Tokyo"]
    alpha, beta, gamma = edit.checks["margins"]
    assert (beta / alpha, beta / gamma) == pytest.approx((4, 2))
    at_edits = torch.stack([one[-1] for one in apart_of(model, edit, [ITALY.text, SPAIN.text])])
    elsewhere = torch.cat(apart_of(model, edit, TEXTS))
    assert float(at_edits.min()) == pytest.approx(edit.checks["least_at_edits"], rel=1e-9)
    assert float(elsewhere.max()) == pytest.approx(edit.checks["largest_elsewhere"], rel=1e-9)
    assert float(memory_of(edit).threshold) == pytest.approx(float(at_edits.min()), rel=1e-7)
    assert float(memory_of(edit).threshold) < float(at_edits.min()) and edit.checks["open_elsewhere"] == 0
    assert float(routing_loss(at_edits, elsewhere, (alpha, beta, gamma))) < 0.02
    assert float(at_edits.min()) >= beta and float(at_edits.min() - elsewhere.max()) >= gamma


def test_the_margins_are_three_hinges():
    at_edits, elsewhere = torch.tensor([3.0, 21.0]), torch.tensor([1.0, 7.0, 4.0])
    alpha, beta, gamma = PUBLISHED
    pairs = [max(0.0, gamma - (float(e) - float(o))) for e in at_edits for o in elsewhere]
    by_hand = (
        sum(max(0.0, float(o) - alpha) for o in elsewhere) / 3 + sum(max(0.0, beta - float(e)) for e in at_edits) / 2
    )
    assert float(routing_loss(at_edits, elsewhere, PUBLISHED)) == pytest.approx(by_hand + sum(pairs) / 6)


def test_a_padded_batch_is_each_prompt_alone(model, edit):
    texts = [ITALY.text, "Mary went to the store and the capital of Spain is", SPAIN.text, "The dog"]
    for side in ("left", "right"):
        tokens = model.tokens(texts, padding=side)
        together = edit.on(model).run(tokens).logits[range(len(texts)), tokens.column(-1)]
        alone = torch.stack([edit.on(model).run(text).logits[0, -1] for text in texts])
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_a_memory_is_data_and_another_model_is_refused(model, edit, tmp_path):
    save_knowledge_edit(edit, tmp_path / "memory", model=model)
    again = load_knowledge_edit(tmp_path / "memory", model)
    assert torch.equal(memory_of(again).change, memory_of(edit).change) and again.facts == edit.facts
    assert torch.equal(edit.on(model).run(ITALY.text).logits, again.on(model).run(ITALY.text).logits)
    assert again.checks["margins"] == edit.checks["margins"]
    other = shelf.model("llama")
    with pytest.raises(LoadError, match="another model"):
        load_knowledge_edit(tmp_path / "memory", other)
    with pytest.raises((EditError, UnknownSite)):
        edit.on(other).run([[1, 2, 3]])
    memory = memory_of(edit)
    with pytest.raises(EditError, match="reads vectors of width"):
        model.run(ITALY.text, edits=SideMemory(memory.site, memory.change[:, 1:], memory.threshold))
    with pytest.raises(EditError, match="changes no weight"):
        applied(model, edit)


def test_shards_are_masked_and_merged_and_memories_add_up(model):
    both = wise(model, [ITALY, SPAIN], 2, TEXTS, shards=2, density=0.2, seed=3)
    generator = torch.Generator().manual_seed(3)
    shape = memory_of(both).change.shape
    masks = [torch.rand(shape, generator=generator) < 0.2 for _ in range(2)]
    assert not bool(memory_of(both).change[~(masks[0] | masks[1])].any()) and len(both.checks["loss"]) == 2
    assert merged(torch.tensor([[[1.0, -2.0]], [[-1.0, -4.0]]])).tolist() == [[0.0, -3.0]]
    first = wise(model, [ITALY], 2, TEXTS)
    two = first + wise(first.on(model), [SPAIN], 2, TEXTS)
    said = model.text(two.on(model).generate([ITALY.text, SPAIN.text], max_new_tokens=1))
    assert [text.split()[-1] for text in said] == ["Oslo", "Paris"] and len(two.edits) == 2


def test_behind_contexts_the_gate_is_open_too(model):
    context = "The dog ran."
    inside = wise(model, [ITALY], 2, TEXTS, contexts=[context])
    at_ends = torch.stack([one[-1] for one in apart_of(model, inside, [ITALY.text, f"{context} {ITALY.text}"])])
    assert float(at_ends.min()) == pytest.approx(inside.checks["least_at_edits"], rel=1e-9)
    said = model.text(inside.on(model).generate([ITALY.text, f"{context} {ITALY.text}"], max_new_tokens=1))
    assert [text.split()[-1] for text in said] == ["Oslo", "Oslo"]


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"texts": []}, EditError, "one or more"),
        ({"layer": 99}, EditError, "out of range"),
        ({"shards": 2}, OutOfRange, "1 shards, as many as facts"),
        ({"density": 0.0}, OutOfRange, "density above 0"),
        ({"steps": 0}, OutOfRange, "a step or more"),
        ({"margins": (20.0, 5.0, 10.0)}, OutOfRange, "alpha below beta"),
        ({"facts": []}, EditError, "one or more"),
    ],
)
def test_what_cannot_be_is_refused(model, how, error, words):
    with pytest.raises(error, match=words):
        wise(model, **{"facts": [ITALY], "layer": 2, "texts": TEXTS, **how})


def test_a_threshold_is_one_number_above_zero():
    for threshold in (torch.zeros(2), torch.tensor([-1.0])):
        with pytest.raises(EditError, match="0 or more"):
            SideMemory("model.layers.0.mlp.down_proj.output", torch.zeros(2, 2), threshold)
