"""Attention to MLP routing: the neurons that are planted behind a head are found, with no others; the algebra is a run's."""

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
import zoo
from caseback.behaviors import neuron_routing
from caseback.behaviors.mechanisms.mlp_inputs import Mlp, mlp_inputs
from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.running.edits import Add
from caseback.organisms.compiled.planted import NEURONS, planted_neurons
from caseback.reports.concepts.routing import routing_document
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.routing import print_routing, routing_words
from exact import exact

BEHIND_A_HEAD = {f"L0N{i}" for i, neuron in enumerate(NEURONS) if neuron.before and "dead" not in neuron.kind}


@pytest.fixture(scope="module")
def planted():
    model = planted_neurons().model
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def texts():
    draw, words = random.Random(0), planted_neurons().inputs
    return [" ".join(draw.choice(words) for _ in range(12)) for _ in range(1000)]


@pytest.mark.parametrize(("kind", "norm"), [("mean", "frozen"), ("zero", "recomputed")])
def test_neurons_that_are_planted_behind_a_head_are_found_and_no_others(planted, texts, kind, norm):
    routed = neuron_routing(planted, texts, kind=kind, norm=norm, n_tokens=None)
    assert len(BEHIND_A_HEAD) == 3
    assert set(routed["unit"].values.tolist()) == BEHIND_A_HEAD
    assert set(routed["sender"].values.tolist()) == {"L0H0"}
    assert (routed["lost"] == 1).all() and (routed["above"] == 1).all()
    assert np.nanmax(routed["lost_heads"]) == np.nanmax(routed["lost_matched"]) == 0
    share = routed["routed"].sel(layer=0)
    assert share.sel(writer="L0H0").item() * share["looked_at"].item() == pytest.approx(3)
    assert np.nansum(routed["routed"]) == share.sel(writer="L0H0").item()
    very = [context.split("very")[-1] != context for context in routed["context"].sel(rank=0).values.reshape(1)]
    assert all(very) and routed["attended"].values[0] == "very"


def test_a_model_without_its_head_has_no_such_pairs(planted, texts):
    """The control: where the head writes nothing, neurons that its write made fire are silent, and none is lost."""
    silent = planted_neurons().model
    with torch.no_grad():
        silent.hf.model.layers[0].self_attn.o_proj.weight.zero_()
    routed = neuron_routing(silent, texts)
    assert routed.sizes["rank"] == 0 and not np.nansum(routed["routed"])
    assert "no neuron loses half" in routing_words(routing_document(silent, routed))
    assert "No neuron loses half" in page_html(routing_document(silent, routed))


FAMILIES = ["gpt2", "llama", "gemma2", "gpt_neox", "gpt_neox_sequential", "olmo2", "granite"]


def read(family, kind, layer=1):
    model = cb.load(zoo.tiny(family, torch.float64))
    rows = np.random.default_rng(0).integers(1, zoo.VOCAB, (3, 7)).tolist()
    return model, rows, mlp_inputs(model, rows, [layer], kind, 1, False), Mlp.of(model.anatomy, layer)


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_without_a_head_is_that_of_a_run_whose_mlp_does_not_read_it(family, kind):
    with exact():
        model, rows, inputs, mlp = read(family, kind)
        _, after = inputs.without_heads(mlp, 1, 0, torch.arange(len(inputs.row)), True)
        run = model.run(model.tokens(rows), read=["head_out"])
        for head, found in enumerate(after):
            write = run["head_out", 0][:, :, head]
            if kind == "mean":
                write = write - write[:, 1:].mean((0, 1))
            edited = model.run(model.tokens(rows), edits=[Add("mlp_in", layer=1, value=-write)], read=["mlp_post"])
            torch.testing.assert_close(found, edited["mlp_post", 1][:, 1:].flatten(0, 1), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt_neox"])
def test_what_heads_of_a_layer_give_to_its_neurons_is_what_attention_gives(family):
    """With the norm frozen the parts of a pre-activation sum to it (5.2.19)."""
    with exact():
        model, rows, inputs, mlp = read(family, "zero")
        given, _ = inputs.without_heads(mlp, 1, 1, torch.arange(len(inputs.row)), False)
        run = model.run(model.tokens(rows), read=["mlp_in", "head_out"])
        before = run["mlp_in", 1] - run["head_out", 1].sum(2)
        x = run["mlp_in", 1][:, 1:].flatten(0, 1)
        rest = before[:, 1:].flatten(0, 1)
        scale = mlp.scale(x)
        if mlp.norm is not None:
            rest = mlp.norm.frozen(rest, scale) + (0 if mlp.norm.beta is None else mlp.norm.beta)
        whole = given.sum(0) + rest @ mlp.maps[-1] + mlp.biases[-1]
        torch.testing.assert_close(whole, mlp.pre(x)[-1], rtol=1e-9, atol=1e-10)
        name = "mlp_gate" if len(mlp.maps) > 1 else "mlp_pre"
        own = model.run(model.tokens(rows), read=[name])[name, 1][:, 1:].flatten(0, 1)
        torch.testing.assert_close(whole, own, rtol=1e-9, atol=1e-10)


def test_pages_and_the_command_say_what_was_measured(planted, texts, tmp_path, capsys):
    routed = neuron_routing(planted, texts, n_tokens=None)
    document = routing_document(planted, routed)
    assert json.loads(json.dumps(document)) == document
    assert routing_words(document).startswith("3 of 3 pairs above both bands (other heads 0%, other neurons 0%)")
    page = page_html(document)
    assert all(f"L0H0 → {name}" in page for name in BEHIND_A_HEAD) and "fire only where <em>a head</em>" in page
    console = Console(record=True, width=120)
    print_routing(document, console=console)
    assert "L0H0 → L0N4" in console.export_text()


def test_what_cannot_be_looked_for_is_refused(planted, texts):
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"kind": "resample"}, "kind 'resample' is unknown"),
        ({"norm": "none"}, "norm 'none' is unknown"),
        ({"least": 10**6}, "no neuron that reads a head fires"),
    ]
    for wrong, words in wrongs:
        with pytest.raises(CasebackError, match=words):
            neuron_routing(planted, texts[:50], **wrong)
    with pytest.raises(CasebackError, match="two or more"):
        neuron_routing(planted, texts[:1])
    nothing: list[dict[str, Any]] = [{name: 0} for name in ("threshold", "top", "matched", "n_tokens", "length")]
    nothing += [{"threshold": 1.0}, {"skip_first": -1}]
    for wrong in nothing:
        with pytest.raises(OutOfRange):
            neuron_routing(planted, texts[:50], **wrong)
    with pytest.raises(SiteAbsent, match="no neurons"):
        neuron_routing(cb.load(zoo.tiny("mixtral")), [[1, 2, 3, 4]] * 4)
