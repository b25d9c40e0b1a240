"""Attributions side by side: one document, drawn alike in the terminal and on the page."""

import copy
import io
import json
import re

import numpy as np
import pytest
from page_data import page_data
from rich.cells import cell_len
from rich.console import Console

import caseback as cb
from caseback.errors import CasebackError
from caseback.localize.inputs import agreement, attribute, attribute_generation, faithfulness
from caseback.model.prompts.masked_prompts import special_tokens
from caseback.reports.attributions import check_attributions, compare_attributions, label_of
from caseback.reports.tokens_text import visible
from caseback.views.page.attributions import attributions_html, write_attributions
from caseback.views.text.attributions import print_attributions, shade

PROMPT = "When Mary and John went to the store, John gave a drink to"
METHODS = ["gradient_norm", "gradient_x_input"]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def made(model):
    return compare_attributions(model, PROMPT, METHODS, generate=2)


def many(made, n, texts=None):
    """The same document with more methods, and other texts."""
    document = copy.deepcopy(made)
    rng = np.random.default_rng(0)
    texts = texts or [token["text"] for token in document["tokens"]]
    document["tokens"] = [{"text": text, "positions": [i]} for i, text in enumerate(texts)]
    document["methods"] = [
        {**document["methods"][0], "name": f"method_{i}", "label": label_of(f"method_{i}"), "signed": True}
        | {"scores": rng.normal(size=len(texts)).tolist()}
        for i in range(n)
    ]
    compared = document["comparison"]
    for name in ("spearman", "kendall", "top_k"):
        compared[name] = rng.uniform(-1, 1, (n, n)).tolist()
    for name in ("deletion", "insertion"):
        compared[name] = [compared[name][0]] * n
    for name in ("comprehensiveness", "sufficiency"):
        compared[name] = rng.normal(size=n).tolist()
    document["generation"] = None
    return document


def printed(document, width=80, **options):
    file = io.StringIO()
    print_attributions(document, Console(file=file, width=width, **options))
    return file.getvalue()


def test_the_document_is_what_the_functions_say(model, made):
    check_attributions(json.loads(json.dumps(made, allow_nan=False)))
    metric = cb.logit_diff(" Mary", " John")
    scores = attribute(model, PROMPT, metric, METHODS)
    assert np.allclose([m["scores"] for m in made["methods"]], scores.values[:, 0], atol=1e-4)
    assert [m["signed"] for m in made["methods"]] == [False, True]
    faith = faithfulness(model, PROMPT, metric, scores)
    compared = made["comparison"]
    assert np.allclose(compared["comprehensiveness"], faith.aopc_comprehensiveness.values[:, 0], atol=1e-3)
    assert np.isclose(compared["chance"]["sufficiency"]["mean"], float(faith.chance_sufficiency[0]), atol=1e-3)
    tokens = model.tokens(PROMPT)
    agree = agreement(scores, special=special_tokens(model, tokens))
    assert np.allclose(compared["kendall"], agree.kendall.values[:, :, 0])
    rows = attribute_generation(model, PROMPT, "gradient_x_input", metric="logit_diff", max_new_tokens=2).values[0]
    mine = np.array(made["generation"]["methods"][1]["scores"], dtype=float)
    assert np.allclose(mine, rows, atol=1e-3, equal_nan=True)
    assert made["generation"]["n_prompt"] == len(made["tokens"])


def test_with_all_a_method_that_refuses_is_left_out_and_says_why(model, monkeypatch):
    def refuses(model, tokens, metric):
        raise CasebackError("not on this model")

    named = {"gradient_norm": cb.localize.inputs.gradient_norm, "refuses": refuses}
    monkeypatch.setattr("caseback.reports.attributions.methods_named", lambda methods: named)
    found = compare_attributions(model, "Mary went", "all")
    assert found["refused"] == [{"name": "refuses", "why": "not on this model"}]
    assert "not on this model" in printed(found) and "not on this model" in attributions_html(found)
    with pytest.raises(CasebackError, match="not on this model"):
        compare_attributions(model, "Mary went", ["gradient_norm", "refuses"])


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_every_line_fits_and_no_number_is_cut(made, n, width):
    text = printed(many(made, n), width)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    tables = text[text.index("\nScores") :]
    assert "…" not in re.sub(r"<\|.*?…", "", tables)


def test_text_of_tokens_is_never_acted_on(made, hostile):
    document = many(made, 3, [token["text"] for token in hostile["tokens"]])
    for text in (printed(document), printed(document, 100, force_terminal=True, color_system="truecolor")):
        assert not re.search("[\u2028\u200b\u202e\x00\x07]|\x1b(?!\\[[0-9;]*m)", text)
        assert visible("[bold red]markup[/]") in text
    page = attributions_html(document)
    assert page.count("<script") == 2 and "<img" not in page and "<!--" not in page.split("<script>")[0]
    page.encode("utf-8")


def test_colour_diverges_from_none_and_is_off_without_colour(made):
    assert shade(0.0) == "" and shade(0.5) != shade(-0.5)
    assert "\x1b[" not in printed(made)
    coloured = printed(made, 100, force_terminal=True, color_system="truecolor")
    assert "48;2;" in coloured, "tokens have backgrounds"


def test_the_page_carries_the_document_and_main_numbers_as_tables(made, tmp_path):
    page = attributions_html(made)
    data = page_data(page)
    assert data["kind"] == "caseback.attributions" and data["tokens"][2]["visible"] == "␣Mary"
    assert np.allclose(data["methods"][1]["scores"], made["methods"][1]["scores"], rtol=1e-5)
    assert data["generation"]["targets"][0]["visible"] == "␣Mary"
    tables = page.split("<noscript>")[1].split("</noscript>")[0]
    for caption in ("Scores", "Faithfulness (AOPC)", "Rank correlation of sizes", "Each generated token"):
        assert caption in tables
    path = write_attributions(made, tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == page
    with pytest.raises(CasebackError, match="there is no folder"):
        write_attributions(made, tmp_path / "none" / "page.html")


def test_a_document_that_does_not_hang_together_is_refused(made):
    for change, said in (
        (lambda d: d.update(version=99), "a document of attributions of version 99"),
        (lambda d: d["methods"][0]["scores"].pop(), "scores for"),
        (lambda d: d["comparison"]["kendall"].pop(), "comparison.kendall"),
        (lambda d: d["generation"]["methods"][0]["scores"].pop(), "does not fit its targets"),
        (lambda d: d["metric"].update(value=float("nan")), "expected a finite number"),
    ):
        document = copy.deepcopy(made)
        change(document)
        with pytest.raises(CasebackError, match=said):
            attributions_html(document)


def test_bad_input_is_told(model):
    with pytest.raises(CasebackError, match="2 prompts given"):
        compare_attributions(model, ["a", "b"])
    with pytest.raises(CasebackError, match="foil is given, and 'logit' takes none"):
        compare_attributions(model, PROMPT, foil=" John", metric="logit")
