"""Decoders with a classification or reward head: classes in place of tokens, numbers of plain transformers under hooks."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, SiteAbsent, TargetError
from caseback.reports.explain import explain

LABELS = {0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}
NAMES = ["llama", "gpt2", "gemma2", "gpt_neox", "opt"]
PAD = 0


def classifier(name, labels=LABELS):
    config = zoo.FAMILIES[name]()
    config.update({"pad_token_id": PAD})
    config.id2label, config.label2id = dict(labels), {text: i for i, text in labels.items()}
    hf = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").double().eval()
    zoo.redraw(hf)
    return hf


def ids(lengths=(8,), seed=5):
    return [[max(i, 1) for i in row] for row in shelf.ids(lengths, seed=seed)]


def plain(hf, rows):
    """Pooled logits of transformers itself, right-padded, under whatever hooks its modules have."""
    width = max(map(len, rows))
    given = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return hf(given, attention_mask=(given != PAD).long()).logits


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_pooled_last_token(name):
    hf = classifier(name)
    model = cb.load(hf)
    assert model.anatomy.classes.names == tuple(LABELS.values())
    for row in ids((8,)) + ids((5,)):
        run = model.run([row], read=["resid_post", "pattern"])
        assert run.logits.shape == (1, len(row), 3)
        assert torch.equal(run.logits[:, -1], plain(hf, [row]))
    rows, hf = ids((8, 5)), hf.float()  # transformers' own padding gives NaN in float64
    model = cb.load(hf)
    for side in ("right", "left"):
        tokens = model.tokens(rows, padding=side)
        last = model.run(tokens).logits[[0, 1], tokens.column(-1)]
        torch.testing.assert_close(last, torch.cat([plain(hf, [row]) for row in rows]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_targets_by_name_and_by_number(name):
    hf = classifier(name)
    model, row = cb.load(hf), ids()
    expected = plain(hf, row)[0]
    run = model.run(row)
    named, numbered = cb.logit_diff("POSITIVE", "NEGATIVE"), cb.logit_diff(2, 0)
    assert named(run).item() == numbered(run).item() == (expected[2] - expected[0]).item()
    assert cb.logit("NEUTRAL")(run).item() == expected[1].item()
    torch.testing.assert_close(cb.prob("NEUTRAL")(run)[0].double(), expected.softmax(-1)[1])
    torch.testing.assert_close(cb.log_prob(1)(run)[0].double(), expected.log_softmax(-1)[1])
    assert model.token_id("POSITIVE") == 2


@pytest.mark.parametrize("name", NAMES)
def test_edits_and_sweeps_are_hooks_written_by_hand(name):
    hf = classifier(name)
    model, row = cb.load(hf), ids()
    width, variants, expected = model.anatomy.layers[0].d_z, [], []
    for layer in range(3):
        for head in range(2):

            def without(module, args, head=head):
                z = args[0].clone()
                z[..., head * width : (head + 1) * width] = 0
                return (z, *args[1:])

            handle = model.anatomy.layers[layer].o.register_forward_pre_hook(without)
            expected.append(plain(hf, row)[0])
            handle.remove()
            variants.append(cb.Zero("z", layer=layer, head=head))
    for edit, logits in zip(variants, expected, strict=True):
        torch.testing.assert_close(model.run(row, edits=edit).logits[0, -1], logits)
    swept = model.sweep(row, variants, cb.logit_diff("POSITIVE", "NEGATIVE"))
    by_hand = torch.stack([logits[2] - logits[0] for logits in expected])
    torch.testing.assert_close(torch.tensor(swept.values)[:, 0], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_autograds(name):
    hf = classifier(name)
    model, row = cb.load(hf), ids()
    seen = {}

    def leaf(module, args, kwargs):
        x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        seen["x"] = x
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    handle = model.anatomy.layers[1].layer.register_forward_pre_hook(leaf, with_kwargs=True)
    logits = hf(torch.tensor(row)).logits
    handle.remove()
    expected = torch.autograd.grad(logits[0, 2] - logits[0, 0], seen["x"])[0]
    metric = cb.logit_diff("POSITIVE", "NEGATIVE")
    run = model.run(row, read=[("resid_pre", 1)], grad=True)
    torch.testing.assert_close(run.grad(metric, [("resid_pre", 1)])["resid_pre", 1], expected)


def test_techniques_of_metrics_take_classes():
    """Direct effects sum to the logit difference, and input scores and patching answer for classes."""
    model = cb.load(classifier("llama"))
    row, other = ids()[0], ids(seed=6)[0]
    metric = cb.logit_diff("POSITIVE", "NEGATIVE")
    value = plain(model.hf, [row])[0]
    direct = cb.localize.components.logit_attribution(model, [row], metric)
    assert abs(direct.sum("component").item() - float(value[2] - value[0])) < 1e-6
    scores = cb.localize.inputs.gradient_x_input(model, [row], metric)
    assert scores.shape == (1, len(row)) and bool((scores != 0).any())
    effects = cb.localize.components.patch(model, [row], [other], metric)
    assert bool((effects != 0).any())


def test_a_reward_model_has_one_class(tmp_path):
    hf = classifier("llama", {0: "reward"})
    hf.save_pretrained(tmp_path)
    model = cb.load(tmp_path, attn_implementation="eager")
    assert type(model.hf) is type(hf) and "1 classes" in repr(model)
    row = ids()
    for target in ("reward", 0):
        assert cb.logit(target)(model.run(row)).item() == plain(hf, row)[0, 0].item()


def test_a_batch_needs_no_padding_token():
    """transformers refuses such a batch; ours takes each prompt's own last token."""
    hf = classifier("gpt2")
    hf.config.pad_token_id = None
    model, rows = cb.load(hf), ids((8, 8))
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1"):
        hf(torch.tensor(rows))
    together = model.run(rows).logits[:, -1]
    alone = torch.cat([hf(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("target", ["GREAT", 3, -1, 1.5])
def test_what_is_no_class_is_refused(target):
    model = cb.load(classifier("llama"))
    with pytest.raises(TargetError):
        cb.logit(target)(model.run(ids()))


def test_what_needs_tokens_is_refused_in_words():
    model, row = cb.load(classifier("llama")), ids()
    doors = {
        "generate": lambda: model.generate(row, max_new_tokens=2),
        "lens": lambda: cb.decode.vocabulary.logit_lens(model, row),
        "explain": lambda: explain(model, row[0]),
        "words": lambda: model.weights.W_U,
        "loss": lambda: cb.loss()(model.run(row)),
        "answer": lambda: cb.answer_log_prob([1, 2])(model.run(row)),
        "influence": lambda: cb.localize.inputs.influence_functions(model, row, [row[0], row[0]]),
    }
    for what, door in doors.items():
        with pytest.raises((SiteAbsent, TargetError), match="classes"):
            door()
            pytest.fail(what)
    with pytest.raises(CasebackError):
        model.token_id(" the")
