"""``explain``: its numbers are those of the techniques by themselves, on any family, prompt and tokenizer."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import caseback as cb
import shelf
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.errors import CasebackError, OutOfRange, TargetError, TokensError
from caseback.jobs import budget
from caseback.localize.components.ablation import ablate
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.reports import explain_checks
from caseback.reports.explain import explain as whole
from caseback.reports.explain_checks import correlation_words, rank_correlation
from caseback.reports.explain_document import check_explanation
from caseback.views.page.explanation import report_html
from exact import exact

# the sections behind the story, which has tests of its own
explain = partial(whole, depth="none")

PROMPT = "Tom and Lily went to the park. Lily gave the ball to"
# whatever else an explanation finds, these hold to rounding
IDENTITIES = (
    "logit attributions sum to the metric",
    "the lens ends at the model's output",
    "the largest ablation, measured again, is the same",
)
COMPLETE = "integrated gradients are complete"
NAMES = tuple(dict.fromkeys((*shelf.FEW, *"olmo2 cohere granite gpt_neox phi opt_projected glm4 qwen2_moe".split())))


@pytest.fixture(scope="module")
def stories(assets):
    return cb.load(assets / "models" / "stories3M")


@pytest.fixture(scope="module")
def gift(stories):
    return explain(stories, PROMPT, foil=" Lily")


def check(explanation, name):
    return next(c for c in explanation["checks"] if c["name"] == name)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_explained_from_ids_alone(name):
    model, prompt = shelf.model(name), shelf.ids((6,))[0]
    with exact():
        made = explain(model, prompt, steps=8, max_steps=8)
        best = model.hf(torch.tensor([prompt])).logits[0, -1].argsort(descending=True)
    check_explanation(json.loads(json.dumps(made, allow_nan=False)))
    assert [made["target"]["id"], made["foil"]["id"]] == best[:2].tolist()
    for identity in IDENTITIES:
        assert check(made, identity)["value"] < 1e-9, identity
    assert (made["components"]["pos_embed"] is None) == ("pos_embed" in model.anatomy.lacks)
    assert len(made["ablations"]["rows"]) == model.n_layers * (model.n_heads + 1)
    assert made["prompt"] == " ".join(map(str, prompt)) and made["tokens"][1]["text"] == str(prompt[1])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral", "gpt_neox", "deepseek_v3"])
def test_a_prompt_of_one_token_is_explained(name):
    with exact():
        made = explain(shelf.model(name), [5], steps=8, max_steps=8)
    assert made["position"] == 0 and made["heads"][0]["pattern"] == [[1.0]] or name == "gpt_oss"
    assert all(check(made, identity)["passed"] for identity in IDENTITIES)
    assert len(made["inputs"]["methods"][0]["scores"]) == 1
    assert report_html(made)


def test_the_document_holds_what_the_techniques_say(stories, gift):
    tokens, metric = stories.tokens(PROMPT), cb.logit_diff(" Tom", " Lily")
    run = stories.run(tokens)
    assert gift["target"]["text"] == " Tom" and gift["foil"]["text"] == " Lily"
    assert gift["metric"]["value"] == pytest.approx(float(metric(run)[0]), abs=1e-6)
    prob = run.logits[0, -1].softmax(-1)
    for told, i in zip(gift["predictions"], prob.argsort(descending=True)[:10].tolist(), strict=True):
        assert (
            told["id"] == i and told["prob"] == pytest.approx(float(prob[i])) and told["text"] == stories.token_text(i)
        )

    lens = logit_lens(stories, tokens, targets=[" Tom", " Lily"])
    assert gift["lens"]["layers"] == ["embed", *map(str, range(6))]
    assert gift["lens"]["foil_rank"] == lens["rank"].values[:, 0, :, 1].tolist()
    assert gift["lens"]["target_prob"] == lens["prob"].values[:, 0, :, 0].tolist()
    assert gift["lens"]["top_text"][6][13][0] == " Tom"
    assert gift["lens"]["logit_diff"][6] == pytest.approx(gift["metric"]["value"], abs=1e-5)

    shares = logit_attribution(stories, tokens, metric)
    parts = gift["components"]
    assert parts["head"][4][3] == shares.sel(component="L4H3").item() and parts["mlp"][5] == shares.sel(
        component="MLP 5"
    )
    flat = [*sum(parts["head"], []), *parts["mlp"], *parts["attn_bias"], parts["embed"], parts["bias"]]
    assert math.fsum(flat) == pytest.approx(gift["metric"]["value"], abs=1e-4) and parts["pos_embed"] is None
    assert parts["total"] - parts["gap"] == pytest.approx(gift["metric"]["value"], abs=1e-5)

    effects = ablate(stories, tokens, metric, kind="zero")
    rows = {row["name"]: row for row in gift["ablations"]["rows"]}
    assert rows["L4H3"]["effect"] == pytest.approx(effects.sel(component="L4H3").item(), abs=1e-4)
    assert (rows["MLP 2"]["head"], rows["L2H1"]["head"]) == (None, 1)
    claimed, measured = zip(*((row["attributed"], row["effect"]) for row in rows.values()), strict=True)
    assert gift["ablations"]["spearman"] == pytest.approx(rank_correlation(claimed, measured))
    assert (gift["ablations"]["kind"], gift["ablations"]["entry"]) == ("zero", "3.2.10")

    by_gradient, by_path = gift["inputs"]["methods"]
    assert np.allclose(by_gradient["scores"], gradient_x_input(stories, tokens, metric).values[0], atol=1e-4)
    again = integrated_gradients(stories, tokens, metric)
    assert np.allclose(by_path["scores"], again.values[0], atol=1e-3) and by_path["baseline"] == "mean_after_first"
    assert by_path["steps"] == again.attrs["steps"][0] <= 64


def test_the_heads_shown_are_the_largest_with_their_patterns(stories, gift):
    assert len(gift["heads"]) == 6
    run = stories.run(PROMPT, read=["pattern"])
    for head in gift["heads"]:
        assert np.allclose(head["pattern"], run["pattern", head["layer"]][0, head["head"]], atol=1e-4)
    rows = {row["name"]: row for row in gift["ablations"]["rows"] if row["head"] is not None}
    shown = {head["name"] for head in gift["heads"]}
    assert max(rows.values(), key=lambda row: abs(row["effect"]))["name"] in shown
    assert all(
        rows[h["name"]]["effect"] == h["ablation"] and rows[h["name"]]["attributed"] == h["dla"] for h in gift["heads"]
    )


def test_on_a_real_prompt_the_claims_hold(gift):
    assert all(check(gift, name)["passed"] for name in (*IDENTITIES, COMPLETE))
    removing = check(gift, "removing input tokens bears the scores out")
    assert removing["verdict"] == "weak" and "14 tokens" in removing["detail"]


def test_a_counterfactual_says_where_the_answer_comes_back(stories):
    corrupt = PROMPT.replace("Tom", "Ben")
    told = explain(stories, PROMPT, target=" Tom", foil=" Lily", corrupt=corrupt, max_steps=50)["patching"]
    pair = cb.logit_diff(" Tom", " Lily")
    assert told["clean_metric"] == pytest.approx(float(pair(stories.run(PROMPT))), rel=1e-5)
    assert told["corrupt_metric"] == pytest.approx(float(pair(stories.run(corrupt))), rel=1e-5)
    stream = np.array(told["maps"][0]["recovery"])
    differs = [a["text"] != b for a, b in zip(told["corrupt"], stories.tokens(PROMPT).text[0], strict=True)]
    # before the first layer the prompts differ at one token, which therefore brings everything back
    assert sum(differs) == 1 and stream[0, differs.index(True)] == pytest.approx(1, abs=1e-4)
    assert np.abs(np.delete(stream[0], differs.index(True))).max() < 1e-4
    run = stories.run(PROMPT, read=("z", 3))
    patched = stories.run(corrupt, edits=cb.Resample("z", run, layer=3, head=4))
    recovered = (float(pair(patched)) - told["corrupt_metric"]) / (told["clean_metric"] - told["corrupt_metric"])
    assert told["heads"][3][4] == pytest.approx(recovered, abs=1e-4)


def test_a_check_that_does_not_hold_fails(stories):
    torn = explain(stories, PROMPT, baseline="zero", max_steps=50)
    complete = check(torn, COMPLETE)
    assert not complete["passed"] and complete["value"] > complete["limit"]


def test_removing_a_token_is_putting_the_baseline_in_its_place(stories, gift):
    metric = cb.logit_diff(" Tom", " Lily")
    table = stories.hf.get_input_embeddings().weight.detach()
    # the baseline of models without position embeddings leaves the first token in place
    clean, effects = float(metric(stories.run(PROMPT))[0]), [0.0]
    for i in range(1, 14):
        effects.append(clean - float(metric(stories.run(PROMPT, edits=cb.Replace("embed", table.mean(0), pos=i)))[0]))
    scores = gift["inputs"]["methods"][1]["scores"]
    agreement = rank_correlation(scores, effects)
    assert check(gift, "removing input tokens bears the scores out")["value"] == pytest.approx(agreement, abs=0.02)


def test_mean_ablation_averages_over_the_prompt_or_over_others(stories):
    tokens, metric = stories.tokens("Once upon a time"), cb.logit_diff(" there", " in")
    for over in (None, ["The dog ran to the", "Lily was sad"]):
        made = explain(stories, tokens, target=" there", foil=" in", ablation="mean", over=over, steps=5)
        effect = ablate(stories, tokens, metric, kind="mean", over=over, components=["L2H0"]).item()
        row = next(row for row in made["ablations"]["rows"] if row["name"] == "L2H0")
        assert row["effect"] == pytest.approx(effect, abs=1e-4) and made["ablations"]["entry"] == "3.2.9"
        assert check(made, IDENTITIES[2])["passed"]


def test_target_and_foil_default_to_what_is_left_of_the_first_choices(stories):
    first, second, third = (p["id"] for p in explain(stories, PROMPT, steps=2, max_steps=2)["predictions"][:3])
    for given, expected in (
        ({}, (first, second)),
        ({"target": second}, (second, first)),
        ({"foil": first}, (second, first)),
        ({"target": third}, (third, first)),
        ({"foil": third}, (first, third)),
    ):
        made = explain(stories, PROMPT, **given, steps=2, max_steps=2)
        assert (made["target"]["id"], made["foil"]["id"]) == expected


def test_long_prompts_keep_few_patterns_and_large_models_ablate_the_largest(stories):
    with budget.override(page_pattern_entries=2 * 14**2):
        made = explain(stories, PROMPT, most_ablated=9, steps=2, max_steps=2)
    assert [head["pattern"] is None for head in made["heads"]] == [False, False, *[True] * (len(made["heads"]) - 2)]
    assert len(made["ablations"]["rows"]) == 9
    units = logit_attribution(stories, PROMPT, cb.logit_diff(made["target"]["id"], made["foil"]["id"]))
    units = units[np.isin(units.kind, ["head", "mlp"])]
    largest = units.component.values[np.argsort(-np.abs(units.values[:, 0]))[:9]]
    assert {row["name"] for row in made["ablations"]["rows"]} == set(largest.tolist())
    assert report_html(made)
    with budget.override(page_pattern_entries=100):
        assert all(head["pattern"] is None for head in explain(stories, PROMPT, steps=2, max_steps=2)["heads"])


def test_padding_of_the_tokens_given_does_not_matter(stories):
    both = stories.tokens(["Once upon a time", PROMPT], padding="left")
    one, other = (explain(stories, given, steps=4, max_steps=4) for given in (both[0], "Once upon a time"))
    assert one["tokens"] == other["tokens"]
    assert np.allclose(one["inputs"]["methods"][1]["scores"], other["inputs"]["methods"][1]["scores"], atol=1e-4)


def test_the_model_is_left_as_it_was():
    model = shelf.model("gpt2")
    before, attention = shelf.tensors(model.anatomy), model.hf.config._attn_implementation
    # transformers leaves hooks of its own once it was asked for hidden states, as another test may have done
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf.modules()]
    explain(model, [1, 2, 3], steps=2, max_steps=2)
    after = shelf.tensors(model.anatomy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.hf.config._attn_implementation == attention
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    assert hooks == [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf.modules()]


def test_half_precision_is_explained_within_its_rounding(assets):
    model = cb.load(assets / "models" / "stories260K", dtype=torch.bfloat16)
    made = explain(model, "Once upon a time", steps=8, max_steps=8)
    assert made["model"]["dtype"] == "bfloat16" and all(check(made, name)["passed"] for name in IDENTITIES)


def test_what_cannot_be_explained_is_refused(stories):
    for prompt, error, told in (
        ("", TokensError, "empty"),
        ([], TokensError, "no prompt given"),
        (["Once", "upon"], TokensError, "2 prompts given"),
        ("a " * 600, TokensError, "context is 512"),
    ):
        with pytest.raises(error, match=told):
            explain(stories, prompt)
    with pytest.raises(TargetError, match="both ' Tom'"):
        explain(stories, PROMPT, target=" Tom", foil=" Tom")
    with pytest.raises(TargetError, match="foil ' crocodile hat' is"):
        explain(stories, PROMPT, foil=" crocodile hat")
    with pytest.raises(CasebackError, match="'zero' or 'mean'"):
        explain(stories, PROMPT, ablation="resample")
    with pytest.raises(OutOfRange):
        explain(stories, PROMPT, k=0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([1, 1, 2], [1, 2, 3], 0.8660254),
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation(a, b, expected):
    assert rank_correlation(a, b) == (expected if expected is None else pytest.approx(expected))


def test_rank_correlation_is_spearmans():
    a, b = np.random.default_rng(0).integers(0, 6, (2, 40))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_the_input_methods_are_compared_as_the_functions_compare_them(stories, gift):
    from caseback.localize.inputs import agreement, attribute, faithfulness

    metric = cb.logit_diff(gift["target"]["id"], gift["foil"]["id"])
    scores = attribute(stories, PROMPT, metric, ["gradient_x_input"])
    compared = gift["inputs"]["comparison"]
    faith = faithfulness(stories, PROMPT, metric, scores, chance=4)
    assert compared["names"] == [method["name"] for method in gift["inputs"]["methods"]]
    assert math.isclose(compared["comprehensiveness"][0], float(faith.aopc_comprehensiveness[0, 0]), abs_tol=1e-3)
    assert math.isclose(compared["chance"]["sufficiency"]["mean"], float(faith.chance_sufficiency[0]), abs_tol=1e-3)
    assert compared["top_k"][0][0] == 1 and 0 <= compared["top_k"][0][1] <= 1
    assert int(agreement(scores).k[0]) >= compared["k"], "the token that begins a text is not compared"
    assert "Lost without the highest tokens" in _terminal(gift)


def test_a_prompt_of_special_tokens_alone_has_no_comparison():
    model = cb.load("meadow")
    alone = explain(model, [model.tokenizer.all_special_ids[0]], steps=2)
    assert alone["inputs"]["comparison"] is None and "<html" in report_html(alone)


def _terminal(explanation):
    import io

    from rich.console import Console

    from caseback.views.text.explanation import print_explanation

    file = io.StringIO()
    print_explanation(explanation, Console(file=file, width=100))
    return file.getvalue()


@pytest.mark.parametrize(
    ("agreement", "verdict"), [(0.9, "held"), (0.69, "weak"), (0.3, "weak"), (0.29, "failed"), (-0.8, "failed")]
)
def test_a_weak_correlation_is_called_weak_and_does_not_count_as_held(agreement, verdict, stories, monkeypatch):
    monkeypatch.setattr(explain_checks, "rank_correlation", lambda a, b: agreement)
    made = explain(stories, "Once upon a time", steps=2, max_steps=2)
    for name in ("removing input tokens bears the scores out", "ablating components bears their attributions out"):
        told = check(made, name)
        assert (told["verdict"], told["passed"]) == (verdict, verdict == "held")
        assert {"held": "strong", "weak": "weak", "failed": "none"}[verdict] in told["detail"].split("; ")[-1]


def test_the_components_compared_are_those_of_the_largest_claims_and_of_the_largest_effects(gift):
    """One that claims nothing and matters most is compared too: by hand from the document's rows."""
    rows = gift["ablations"]["rows"]
    both = {r["name"] for key in ("attributed", "effect") for r in sorted(rows, key=lambda r: -abs(r[key]))[:10]}
    compared = [row for row in rows if row["name"] in both]
    expected = spearmanr([row["attributed"] for row in compared], [row["effect"] for row in compared]).statistic
    told = check(gift, "ablating components bears their attributions out")
    assert told["value"] == pytest.approx(expected) and f"{len(both)} components" in told["detail"]


@pytest.mark.parametrize("view", ["terminal", "page"])
def test_components_are_listed_by_what_was_measured(view, gift):
    from caseback.views.page.explanation_tables import static_tables

    names = [row["name"] for row in sorted(gift["ablations"]["rows"], key=lambda row: -abs(row["effect"]))[:5]]
    text = _terminal(gift) if view == "terminal" else static_tables(gift)
    text = text[text.index("Which components") :]
    places = [text.index(f" {name} " if view == "terminal" else f">{name}<") for name in names]
    assert places == sorted(places)


@pytest.mark.slow
def test_on_a_language_model_the_path_is_complete_and_the_largest_effect_stands_first(smollm):
    """MLP 0, which all others need and which writes next to nothing itself, was hidden among the others."""
    prompt = "When Mary and John went to the store, John gave a drink to"
    why = explain(smollm, prompt)
    by_path = why["inputs"]["methods"][1]
    assert by_path["steps"] <= 64 and check(why, COMPLETE)["passed"]
    ids = smollm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    mlp, best = smollm.hf.model.layers[0].mlp, [why[key]["id"] for key in ("target", "foil")]
    with torch.no_grad():
        clean = smollm.hf(ids).logits[0, -1, best]
        with mlp.register_forward_hook(lambda module, args, out: torch.zeros_like(out)):
            without = smollm.hf(ids).logits[0, -1, best]
    lost = float((clean[0] - clean[1]) - (without[0] - without[1]))
    rows = {row["name"]: row["effect"] for row in why["ablations"]["rows"]}
    assert rows["MLP 0"] == pytest.approx(lost, abs=1e-2) and max(map(abs, rows.values())) == abs(rows["MLP 0"])
    listed = _terminal(why).partition("Which components")[2].splitlines()[2]
    assert listed.split()[0:2] == ["MLP", "0"]
    agrees = check(why, "ablating components bears their attributions out")
    assert agrees["verdict"] != "held" and f"({correlation_words(why['ablations']['spearman'])})" in _terminal(why)
