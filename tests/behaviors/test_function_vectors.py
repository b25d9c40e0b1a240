"""Function and task vectors: exact sums of what heads write, chosen on other prompts than they are judged on."""

import json

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import function_behavior, function_vector, task_vector
from caseback.behaviors.mechanisms.shots import halves, shots_of, single
from caseback.errors import CasebackError, OutOfRange
from caseback.reports.behavior import behavior_document, function_words
from caseback.tasks.standard.shots import FUNCTIONS
from zoo import FAMILIES, from_config, redraw

SHOT = "{input}: {output}\n"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def capitals(meadow):
    return single(meadow, FUNCTIONS["capital"])


def speaking(family, meadow):
    """A tiny model of a family with meadow's words."""
    config = FAMILIES[family]()
    config.vocab_size = meadow.d_vocab
    return cb.load(from_config(config, torch.float32), tokenizer=meadow.tokenizer)


def test_the_vector_is_the_sum_of_the_heads_writes_without_the_bias(meadow, capitals):
    model = speaking("gpt2", meadow)
    some = {"shots": 2, "prompts": 6}
    vector = function_vector(model, capitals, **some, top=3)
    own, _ = halves(capitals, 2, 0)
    few = shots_of(model, own, own, 6, 2, SHOT, 0)
    run = model.run(few.prompts.clean, read=["z"])
    expected = torch.zeros(model.d_model)
    rows, columns = torch.arange(len(few)), few.prompts.clean.column(-1)
    for name in vector.heads:
        layer, head = map(int, name[1:].split("H"))
        attention = model.hf.transformer.h[layer].attn
        assert float(attention.c_proj.bias.detach().abs().max()) > 0  # a bias that is left out
        d = attention.head_dim
        mean = run["z", layer][rows, columns, head].mean(0)
        expected += mean @ attention.c_proj.weight.detach()[head * d : (head + 1) * d]
    torch.testing.assert_close(vector.vector, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "falcon_alibi"])
def test_all_heads_of_a_layer_write_what_attention_adds(family, meadow, capitals):
    model = speaking(family, meadow)
    heads = model.n_layers * model.n_heads
    vector = function_vector(model, capitals, shots=2, prompts=6, top=heads)
    assert len(vector.heads) == max(1, heads // 4)
    own, _ = halves(capitals, 2, 0)
    few = shots_of(model, own, own, 6, 2, SHOT, 0)
    run = model.run(few.prompts.clean, read=["head_out"])
    rows, columns = torch.arange(len(few)), few.prompts.clean.column(-1)
    expected = torch.zeros(model.d_model)
    for name in vector.heads:
        layer, head = map(int, name[1:].split("H"))
        expected += run["head_out", layer][rows, columns, head].mean(0)
    torch.testing.assert_close(vector.vector, expected, atol=1e-5, rtol=1e-5)


def test_effects_are_those_of_single_runs(meadow, capitals):
    vector = function_vector(meadow, capitals, shots=3, prompts=6, without="zero-shot")
    own, _ = halves(capitals, 3, 0)
    few = shots_of(meadow, own, own, 6, 3, SHOT, 0)
    run = meadow.run(few.prompts.clean, read=["z"])
    mean = run["z", 2][torch.arange(6), few.prompts.clean.column(-1)].mean(0)
    edit = cb.Replace("z", layer=2, head=2, pos=-1, value=mean[2])
    moved = few.log_prob(meadow.run(few.zero, edits=edit)).exp() - few.log_prob(meadow.run(few.zero)).exp()
    assert float(vector.effects.sel(layer=2, head=2)) == pytest.approx(float(moved.mean()), abs=1e-6)


def test_queries_that_are_judged_were_never_seen(capitals):
    own, held = halves(capitals, 5, 3)
    assert not {x for x, _ in own} & {x for x, _ in held} and len(own) + len(held) == len(capitals)


def test_shuffled_prompts_have_every_answer_at_another_place(meadow, capitals):
    own, held = halves(capitals, 5, 0)
    few = shots_of(meadow, held, own, 8, 5, SHOT, 1)
    for pair in few.prompts.pairs:
        right, dealt = (text.text.splitlines()[:-1] for text in (pair.clean, pair.corrupt))
        assert not set(right) & set(dealt)
        assert sorted(line.split()[-1] for line in right) == sorted(line.split()[-1] for line in dealt)
        assert pair.group not in {line.split(":")[0] for line in right}


@pytest.mark.parametrize(("function", "other"), [("capital", "language"), ("language", "capital")])
def test_5_4_1_meadows_functions_carry_over_to_prompts_without_examples(meadow, function, other):
    words = [function_words(meadow, name) for name in (function, other)]
    report, vectors = function_behavior(meadow, words[0], other=words[1], name=function, prompts=14)
    zero = next(t for t in report.transfers if (t.vector, t.prompts) == ("function vector", "zero-shot"))
    assert zero.carries
    for of in zero.by.values():
        assert of["with"] > of["band"] > of["without"] - 1e-9 and of["with"] > of["other"]
    assert zero.by["accuracy"]["with"] > 0.85
    assert "L2H2" in report.proved()
    # its answers give the function away, so that shuffled examples are as good
    assert next(t for t in report.transfers if t.prompts == "shuffled").carries is None
    assert json.loads(json.dumps(document := behavior_document(meadow, [report]))) == document
    assert vectors["function vector"].edit.site == "resid_post"


def test_a_vector_runs_and_is_saved_as_an_edit(meadow, capitals, tmp_path):
    vector = function_vector(meadow, capitals, prompts=8)
    tokens = meadow.tokens(["France:", "Italy:"])
    cb.save_edits(vector.edit, tmp_path / "vector.safetensors")
    runs = [meadow.run(tokens, edits=e).logits for e in (vector.edit, cb.load_edits(tmp_path / "vector.safetensors"))]
    torch.testing.assert_close(*runs)
    assert meadow.token_text(runs[0][0, tokens.column(-1)[0]].argmax()) == " Paris"


def test_a_task_vector_stands_in_the_stream(meadow, capitals):
    vector = task_vector(meadow, capitals, shots=3, prompts=6)
    own, _ = halves(capitals, 3, 0)
    few = shots_of(meadow, own, own, 6, 3, SHOT, 0)
    run = meadow.run(few.prompts.clean, read=["resid_post"])
    mean = run["resid_post", vector.layer][torch.arange(6), few.prompts.clean.column(-1)].mean(0)
    torch.testing.assert_close(vector.vector, mean)
    after = meadow.run(few.zero, edits=vector.edit, read=["resid_post"])
    torch.testing.assert_close(after["resid_post", vector.layer][0, few.zero.column(-1)[0]], mean)
    assert vector.layer == int(np.argmax(vector.by_layer.values))


def test_an_untrained_model_has_no_function(meadow, capitals):
    hf = cb.load("meadow").hf
    redraw(hf, seed=2)
    model = cb.load(hf, tokenizer=meadow.tokenizer)
    report, vectors = function_behavior(model, capitals, prompts=10)
    assert not report.present and vectors == {} and report.transfers == ()


def test_answers_of_several_tokens_count_by_their_first_and_are_said(meadow):
    words = [*FUNCTIONS["past"]][:30]
    report, _ = function_behavior(meadow, words, prompts=8, draws=2)
    assert report.about_model["cut"] > 0


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shots": 1}, "1 shots"),
        ({"shots": 20}, "pairs with different first halves"),
        ({"prompts": 2}, "2 prompts"),
        ({"top": 0}, "top is 0"),
        ({"without": "none"}, "without 'none' is unknown"),
        ({"by": "rank"}, "by 'rank' is unknown"),
        ({"shot": "{input}"}, "expected a text with"),
        ({"shot": "{output} {input}"}, "expected a text with"),
    ],
)
def test_bad_input_is_refused(meadow, capitals, how, words):
    with pytest.raises((CasebackError, OutOfRange), match=words):
        function_vector(meadow, capitals, **how)


def test_a_function_that_is_neither_known_nor_a_file_is_refused(meadow, tmp_path):
    with pytest.raises(CasebackError, match="neither a file nor a function"):
        function_words(meadow, "capitol")
    (tmp_path / "mine.json").write_text(json.dumps([{"input": "a", "output": "b"}]))
    assert function_words(meadow, str(tmp_path / "mine.json")) == [("a", "b")]
