"""Per-example gradients: those of autograd one text at a time, whatever the family, the batch and the padding."""

import one_at_a_time as alone
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError, CasebackError
from caseback.localize.inputs.training.examples import Batch, Example, batch_of, batches
from caseback.localize.inputs.training.matrices import is_linear, matrices_of, matrix_attrs
from caseback.localize.inputs.training.objectives import log_likelihood, margin, missed, of_metric, sampled, uniform
from caseback.localize.inputs.training.per_example import factors, rows
from exact import exact

DENSE = tuple(n for n in shelf.DISTINCT if not any(x in n for x in ("mixtral", "moe", "oss", "deepseek", "llama4")))
PROMPTS = [[5, 6, 7, 8, 9, 3], [4, 2], [9, 8, 1, 60], [7, 7, 7, 7, 7]]


def batched(model, prompts, parts=("attn", "mlp"), objective=None, budget=2048):
    matrices = matrices_of(model.anatomy, parts)
    made = {}
    for batch in batches(alone.examples(prompts), model.device, token_budget=budget):
        found, values, _ = factors(model, batch, matrices, objective or log_likelihood())
        made.update(zip(batch.numbers, zip(rows(found), values, strict=True), strict=True))
    return tuple(torch.stack([made[i][side] for i in range(len(prompts))]) for side in (0, 1))


@pytest.mark.parametrize("name", DENSE)
def test_3_1_24_gradients_are_those_of_autograd_one_at_a_time(name):
    model = shelf.model(name)
    with exact():
        mine, values = batched(model, PROMPTS)
        theirs = alone.rows(model, PROMPTS)
        likely = torch.stack([alone.log_likelihood(model.hf, p) for p in PROMPTS]).detach()
    assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()), rtol=1e-9)
    assert torch.allclose(values, likely, atol=1e-9)
    assert float(theirs.abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "falcon", "opt"])
def test_batches_and_padding_change_nothing(name):
    model = shelf.model(name)
    with exact():
        together, _ = batched(model, PROMPTS)
        apart, _ = batched(model, PROMPTS, budget=1)
        matrices = matrices_of(model.anatomy)
        left = model.tokens(PROMPTS, padding="left")
        counted = left.mask[:, :-1] & left.mask[:, 1:]
        counted = torch.cat([counted, counted[:, :1] & False], 1)
        padded = rows(factors(model, Batch([0, 1, 2, 3], left, counted), matrices, log_likelihood())[0])
    scale = float(together.abs().max())
    assert torch.allclose(together, apart, atol=1e-10 * scale)
    assert torch.allclose(together, padded, atol=1e-10 * scale)


@pytest.mark.parametrize("name", ["gpt2", "llama_tied", "gemma2", "gpt_neox", "gpt2_unscaled"])
def test_tied_embeddings_have_the_gradient_of_both_uses(name):
    model, parts = shelf.model(name), ("embed", "unembed")
    matrices = matrices_of(model.anatomy, parts)
    tied = model.anatomy.embed.weight is model.anatomy.unembed.weight
    assert (len(matrices), matrix_attrs(matrices, model.hf)["tied"]) == ((1, True) if tied else (2, False))
    with exact():
        mine, _ = batched(model, PROMPTS, parts)
        theirs = alone.rows(model, PROMPTS, parts)
        if tied:
            uses = [batched(model, PROMPTS, part)[0] for part in parts]
            read_as = model.d_model, model.d_vocab
            turned = uses[1].view(-1, *read_as).transpose(1, 2).flatten(1)
            # alone, a part has its own use of the shared matrix
            assert torch.allclose(uses[0] + turned, mine, atol=1e-9 * float(mine.abs().max()))
            assert float(turned.abs().max()) > 1e-3 and float(uses[0].abs().max()) > 1e-3
    assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama", "deepseek_v3", "gpt_oss"])
def test_the_margin_and_what_was_missed(name):
    model = shelf.model(name)
    with exact():
        mine, values = batched(model, PROMPTS, "attn", margin())
        theirs = alone.rows(model, PROMPTS, "attn", alone.margin)
        batch = batch_of(alone.examples(PROMPTS), range(4), model.device)
        logits = model.hf(batch.tokens.ids, attention_mask=batch.tokens.mask.long()).logits
        q = missed(logits, batch)
        for row, p in enumerate(PROMPTS):
            right = model.hf(torch.tensor([p])).logits[0, :-1].softmax(-1).gather(-1, torch.tensor(p)[1:, None])
            assert torch.allclose(q[row], (1 - right).mean(), atol=1e-10)
    assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()))


def test_a_mean_divides_by_the_predictions_and_a_completion_counts_alone():
    model = shelf.model("llama")
    with exact():
        summed, _ = batched(model, PROMPTS)
        averaged, _ = batched(model, PROMPTS, objective=log_likelihood("mean"))
        n = torch.tensor([len(p) - 1 for p in PROMPTS])[:, None]
        assert torch.allclose(averaged * n, summed, atol=1e-10)
        batch = batch_of([Example((5, 6, 7, 8, 9), 0, first=3)], [0], model.device)
        found, _, _ = factors(model, batch, matrices_of(model.anatomy), log_likelihood())
        part = alone.rows(model, [[5, 6, 7, 8, 9]], value=lambda hf, p: alone.log_likelihood(hf, p, 3))
    assert torch.allclose(rows(found), part, atol=1e-10)
    with pytest.raises(CasebackError, match="Did you mean mean"):
        log_likelihood("means")


def test_drawn_labels_depend_on_the_example_alone_and_follow_the_model():
    model = shelf.model("gpt2")
    together, _ = batched(model, PROMPTS, objective=sampled(3))
    apart, _ = batched(model, PROMPTS, objective=sampled(3), budget=1)
    assert torch.allclose(together, apart, atol=1e-9)
    assert not torch.allclose(together, batched(model, PROMPTS, objective=sampled(4))[0])
    # many draws of one prediction: frequencies are the model's probabilities
    n = 4000
    batch = batch_of(alone.examples([[5, 6]] * n), range(n), model.device)
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(n, 2, 4).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sampled(0)(logits, batch).sum(), logits)
    p = torch.tensor([2.0, 0.0, 1.0, -1.0]).softmax(0)
    drawn = (gradient[:, 0] + p).round()  # one-hot: the gradient is the label less p
    assert torch.equal(drawn.sum(1), torch.ones(n))
    assert (drawn.mean(0) - p).abs().max() < 4 * (p * (1 - p) / n).sqrt().max()


def test_uniform_numbers_are_uniform_and_unrelated():
    u = uniform(0, range(300), 50)
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / u.numel()) ** 0.5
    assert abs(float(torch.corrcoef(u[:, :2].T)[0, 1])) < 4 / 300**0.5
    assert torch.equal(uniform(0, [7], 50)[0], u[7]) and not torch.equal(uniform(1, [7], 50)[0], u[7])


def test_a_metric_of_each_query_has_its_own_target():
    model = shelf.model("gpt2")
    examples = alone.examples([[5, 6, 7], [4, 2]])
    metric = cb.logit_diff([3, 9], 5)
    batch = batch_of(examples, range(2), model.device)
    matrices = matrices_of(model.anatomy)
    found, _, _ = factors(model, batch, matrices, of_metric(model, examples, metric))

    def by_hand(p, target):
        logits = model.hf(torch.tensor([p])).logits[0, -1]
        return logits[target] - logits[5]

    for row, (p, target) in enumerate((([5, 6, 7], 3), ([4, 2], 9))):
        theirs = alone.gradient(model, ("attn", "mlp"), lambda p=p, t=target: by_hand(p, t))
        assert torch.allclose(rows(found)[row], theirs, atol=1e-9)


def test_parts_are_what_they_say():
    model = shelf.model("gpt2")
    names = [m.name for m in matrices_of(model.anatomy)]
    linear = [n for n, m in model.hf.named_modules() if is_linear(m) and n != "lm_head"]
    assert names == linear
    assert [m.name for m in matrices_of(model.anatomy, "*.1.attn.c_attn")] == ["transformer.h.1.attn.c_attn"]
    said = matrix_attrs(matrices_of(model.anatomy), model.hf)
    by_hand = sum(p.numel() for n, p in model.hf.named_parameters() if ".attn.c" in n or ".mlp.c" in n)
    assert said["parameters"] == by_hand and 0 < said["share_of_parameters"] < 1


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen2_moe", "deepseek_v3"])
def test_experts_are_refused_and_attention_beside_them_is_not(name):
    model = shelf.model(name)
    with pytest.raises(AnatomyError, match="mixture of experts.*parts=\\['attn'\\]"):
        matrices_of(model.anatomy)
    with exact():
        mine, _ = batched(model, PROMPTS, "attn")
        theirs = alone.rows(model, PROMPTS, "attn")
    assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()))


def test_unknown_parts_are_refused():
    anatomy = shelf.model("gpt2").anatomy
    with pytest.raises(CasebackError, match="Did you mean attn"):
        matrices_of(anatomy, "atn")
    with pytest.raises(CasebackError, match="no linear module answers to"):
        matrices_of(anatomy, "*.nothing")
    with pytest.raises(CasebackError, match="parts is empty"):
        matrices_of(anatomy, [])


def test_nothing_is_left_in_the_model():
    hf = zoo.tiny("gpt2")
    model = cb.load(hf)
    before = [(p.requires_grad, p.grad) for p in hf.parameters()]
    hooks = [len(m._forward_hooks) for m in hf.modules()]
    hf.train()
    batched(model, PROMPTS)
    with pytest.raises(CasebackError, match="expected one number per example"):
        batched(model, PROMPTS, objective=lambda logits, batch: logits.sum())
    assert hf.training and [(p.requires_grad, p.grad) for p in hf.parameters()] == before
    assert [len(m._forward_hooks) for m in hf.modules()] == hooks
