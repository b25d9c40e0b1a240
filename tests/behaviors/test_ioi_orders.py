"""Indirect object identification, order by order of mention: what no mean over both orders can show.

Expected attention and writes come from plain transformers: attention weights, and W_O, the final norm and the
unembedding applied by hand to what enters the output projection.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import caseback as cb
from caseback.behaviors import find_ioi_heads, ioi_by_order, ioi_heads
from caseback.behaviors.indirect_object import ORDERS
from caseback.model.running.tokens import Tokens
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES

MEADOW = Path(cb.__file__).parent / "organisms" / "meadow"
COUNT = 30


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def prompts(model):
    return cb.tasks.ioi().prompts(model, COUNT)


@pytest.fixture(scope="module")
def plain(prompts):
    """By order, (head, 3): attention from the end to IO and to S1, and what the head writes for IO over S."""
    gpt2 = AutoModelForCausalLM.from_pretrained(MEADOW, attn_implementation="eager").double().eval()
    blocks, norm, unembed = gpt2.transformer.h, gpt2.transformer.ln_f, gpt2.lm_head.weight
    heads, width = gpt2.config.n_head, gpt2.config.n_embd // gpt2.config.n_head
    entering = {}
    hooked = [*(block.attn.c_proj for block in blocks), norm]
    for i, module in enumerate(hooked):
        module.register_forward_pre_hook(lambda _, inputs, i=i: entering.__setitem__(i, inputs[0][0, -1]))
    rows = {order: [] for order in ORDERS}
    for row, ids in enumerate(prompts.clean.ids):
        ids = ids[prompts.clean.mask[row].bool()]
        (io,), (s,) = prompts.target[row], prompts.foil[row]
        at_io, at_s1 = (ids.tolist().index(name) for name in (io, s))
        with torch.no_grad():
            attentions = gpt2(ids[None], output_attentions=True).attentions
            scale = (entering[len(blocks)].var(unbiased=False) + norm.eps).sqrt()
            toward = (unembed[io] - unembed[s]) * norm.weight / scale
            measured = []
            for layer, block in enumerate(blocks):
                for h in range(heads):
                    part = slice(h * width, (h + 1) * width)
                    write = entering[layer][part] @ block.attn.c_proj.weight[part]
                    pattern = attentions[layer][0, h, -1]
                    numbers = (pattern[at_io], pattern[at_s1], (write - write.mean()) @ toward)
                    measured.append([float(number) for number in numbers])
        rows["ABBA" if at_io < at_s1 else "BABA"].append(measured)
    return {order: np.mean(of_each, axis=0) for order, of_each in rows.items()}


def test_attention_and_writes_of_each_order_are_those_of_plain_transformers(model, prompts, plain):
    apart = ioi_by_order(ioi_heads(model, prompts))
    assert apart["prompts"].sum() == COUNT and apart["order"].values.tolist() == list(ORDERS)
    for order in ORDERS:
        of = apart.sel(order=order)
        ours = np.stack([of.end_to_io.values, of.end_to_s1.values, of.direct.values], -1)
        np.testing.assert_allclose(ours, plain[order], atol=2e-4)


def test_heads_that_take_a_name_by_its_place_are_called_so(model, prompts, plain):
    """A mean over both orders shows these heads looking at both names and writing neither."""
    measured = ioi_heads(model, prompts, strong=0.9, effect=0.1)
    least = 0.1 * abs(float((measured.clean - measured.corrupt).mean()))
    abba, baba = (plain[order] for order in ORDERS)
    # attention to IO, to S1, and what is written for IO over S
    first = (abba[:, 0] > 0.9) & (baba[:, 1] > 0.9) & (abba[:, 2] > least) & (baba[:, 2] < -least)
    second = (abba[:, 1] > 0.9) & (baba[:, 0] > 0.9) & (abba[:, 2] < -least) & (baba[:, 2] > least)
    names = measured.component.values
    assert names[first].tolist() == ["L1H2", "L2H0", "L2H1"]
    assert names[second].tolist() == ["L2H2", "L2H3", "L2H4", "L3H0"]
    assert names[measured.role.values == "first-name mover"].tolist() == names[first].tolist()
    assert names[measured.role.values == "second-name mover"].tolist() == names[second].tolist()
    assert "name mover" not in measured.role.values.tolist()
    of_findings = {finding.component for finding in find_ioi_heads(model, prompts, strong=0.9, effect=0.1)}
    assert not of_findings & set(names[first | second].tolist())


@pytest.mark.parametrize("order", ORDERS)
def test_a_role_seen_in_one_order_says_so(model, order):
    """With one order alone a first-name mover cannot be told from a name mover: the role names the order."""
    prompts = cb.tasks.ioi(order=order).prompts(model, COUNT)
    measured = ioi_heads(model, prompts)
    roles = dict(zip(measured.component.values.tolist(), measured.role.values.tolist(), strict=True))
    assert ioi_by_order(measured)["order"].values.tolist() == [order]
    movers = ("name mover", "subject mover") if order == "ABBA" else ("subject mover", "name mover")
    assert (roles["L2H0"], roles["L3H0"]) == tuple(f"{role} ({order})" for role in movers)
    assert all(role.endswith(f" ({order})") for role in roles.values() if role)


def test_the_finding_of_a_role_in_one_order_is_measured_on_that_order():
    """BABA prompts that say IO, IO, another: what needs S twice holds in ABBA alone, and is measured there."""
    model = build("indirect_object").model
    prompts = cb.tasks.ioi(templates=TEMPLATES).with_fillers(names=NAMES).prompts(model, 20)
    io_first = prompts.at("IO") < prompts.at("S1")
    ids, rows = prompts.clean.ids.clone(), torch.arange(20)[~io_first]
    column = prompts.clean.first + torch.stack([prompts.at(name) for name in ("IO", "S1", "S2")])
    ids[rows, column[1, rows]] = ids[rows, column[0, rows]]
    ids[rows, column[2, rows]] = prompts.corrupt.ids[rows, column[2, rows]]
    half = replace(prompts, clean=Tokens(ids, prompts.clean.mask, prompts.clean.text))
    partly = {finding.kind: finding for finding in find_ioi_heads(model, half)}
    source = model.run(half.corrupt, read=["z"])
    for kind, layer, head in (("duplicate token (ABBA)", 0, 1), ("induction (ABBA)", 1, 0)):
        finding = partly[kind]
        assert finding.component == f"L{layer}H{head}" and finding.score > 0.95
        metric, edit = half.measured("logit_diff"), cb.Resample("z", source, layer=layer, head=head)
        lost = metric(model.run(half.clean)) - metric(model.run(half.clean, edits=edit))
        assert finding.effect == pytest.approx(float(lost[io_first].mean()), abs=1e-4)
