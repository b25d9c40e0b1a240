"""The page of weights: its numbers are the result's, nothing is loaded, no token becomes markup, the rest is refused."""

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from page_data import page_data
from test_report import Page

import caseback as cb
import shelf
from caseback.decode.vocabulary import circuit_of_tokens, circuit_pairs, weight_svd_words, weights_as_words
from caseback.errors import CasebackError, OutOfRange
from caseback.reports.tokens_text import visible
from caseback.reports.weights import weights_document
from caseback.views.page.weights import weights_html, write_weights
from hostile import HOSTILE


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def data_of(document):
    return page_data(weights_html(document))


def entries(data):
    """Every token or unit of a page's data."""
    if isinstance(data, dict):
        if "value" in data and ("id" in data or "unit" in data):
            yield data
        for part in data.values():
            yield from entries(part)
    elif isinstance(data, list):
        for part in data:
            yield from entries(part)


@pytest.mark.parametrize(
    ("matrix", "head", "labels", "of"),
    [
        ("ov", 1, ["reads", "writes"], ["token", "token"]),
        ("qk", 1, ["asks", "is asked for"], ["token", "token"]),
        ("o", 1, ["dimensions of the head", "writes"], ["d_head", "token"]),
        ("in", None, ["reads", "neurons"], ["token", "neuron"]),
        ("out", None, ["neurons", "writes"], ["neuron", "token"]),
    ],
)
def test_a_singular_pair_is_a_panel_with_the_results_own_numbers(model, matrix, head, labels, of):
    found = weight_svd_words(model, matrix, 1, head=head, top=3, k=5)
    data = data_of(weights_document(model, found))
    assert [p["value"] for p in data["panels"]] == found["value"].values.tolist()
    assert [p["share"] for p in data["panels"]] == found["share"].values.tolist()
    for i, panel in enumerate(data["panels"]):
        assert [side["label"] for side in panel["sides"]] == labels and [side["of"] for side in panel["sides"]] == of
        for name, side in zip(("left", "right"), panel["sides"], strict=True):
            for end in ("top", "bottom"):
                key = f"{name}_{end}"
                assert [e["value"] for e in side[end]] == found[f"{key}_value"][i].values.tolist()
                if side["of"] == "token":
                    assert [e["id"] for e in side[end]] == found[f"{key}_id"][i].values.tolist()
                    assert [e["visible"] for e in side[end]] == [visible(t) for t in found[f"{key}_text"][i].values]
                else:
                    assert [e["unit"] for e in side[end]] == found[f"{key}_unit"][i].values.tolist()


def test_units_and_pairs_have_the_results_own_numbers(model):
    found = weights_as_words(model, "out", 2, units=[7, 3, 9], k=4)
    document = weights_document(model, found, most=2)
    assert [p["name"] for p in document["panels"]] == ["out 7", "out 3"] and document["units"] == 3
    assert [[e["value"] for e in p["sides"][0]["bottom"]] for p in document["panels"]] == found[
        "bottom_value"
    ].values.tolist()[:2]
    one = {name: weights_as_words(model, name, 2, units=[7], k=4).isel(neuron=0) for name in ("in", "out")}
    neuron = data_of(weights_document(model, one))
    assert neuron["title"] == "Neuron 7 of layer 2" and [p["name"] for p in neuron["panels"]] == ["in", "out"]
    assert [p["sides"][0]["label"] for p in neuron["panels"]] == ["reads", "writes"]
    for panel, words in zip(neuron["panels"], one.values(), strict=True):
        for end in ("top", "bottom"):
            assert [e["value"] for e in panel["sides"][0][end]] == words[f"{end}_value"].values.tolist()
            assert [e["text"] for e in panel["sides"][0][end]] == words[f"{end}_text"].values.tolist()
    pairs = circuit_pairs(model, "ov", -1, 3, k=6)
    data = data_of(weights_document(model, pairs))
    assert data["title"] == f"OV of L{model.n_layers - 1}H3"
    for end in ("top", "bottom"):
        assert [p["value"] for p in data["pairs"][end]] == pairs[f"{end}_value"].values.tolist()
        for side in ("from", "to"):
            assert [p[side]["text"] for p in data["pairs"][end]] == pairs[f"{end}_{side}_text"].values.tolist()
    assert [t["value"] for t in data["pairs"]["own"]] == pairs["own_value"].values.tolist()
    assert all(data["pairs"][name] == pairs.attrs[name] for name in ("copying", "own_mean", "mean", "rows"))


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_other_families(name):
    tiny = shelf.model(name)
    expert = 1 if name == "mixtral" else None
    found = {
        m: weights_as_words(tiny, m, 0, expert=expert, units=[2], k=3).isel(neuron=0) for m in ("in", "gate", "out")
    }
    document = weights_document(tiny, found)
    assert [p["name"] for p in document["panels"]] == ["in", "gate", "out"] and document["expert"] == expert
    assert ("expert 1" in document["title"]) == (expert == 1)
    assert len(list(entries(data_of(document)))) == 3 * 2 * 3


def test_no_token_becomes_markup_and_nothing_is_loaded(model):
    document = weights_document(model, weight_svd_words(model, "ov", 1, head=0, top=1, k=len(HOSTILE)))
    for side in document["panels"][0]["sides"]:
        for end in ("top", "bottom"):
            side[end] = [{**entry, "text": text} for entry, text in zip(side[end], HOSTILE, strict=True)]
    text = weights_html(document)
    page = Page(text)
    told = page_data(text)["panels"][0]["sides"][0]["top"]
    assert [e["text"] for e in told] == HOSTILE and [e["visible"] for e in told] == list(map(visible, HOSTILE))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "link", "iframe", "s"} and len(page.scripts) == 2
    assert all("src" not in attributes and "href" not in attributes for _, attributes in page.tags)
    assert not re.search("[\u2028\u200b\u202e\x00\x07\x1b]", text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    for part in (page.scripts[1], page.styles[0]):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy


def test_the_numbers_are_there_without_javascript(model):
    found = weight_svd_words(model, "in", 1, top=2, k=3)
    text = weights_html(weights_document(model, found))
    fallback = " ".join(Page(text[text.index("<noscript>") : text.index("</noscript>")]).text)
    for value, token in zip(found["left_top_value"].values.flat, found["left_top_text"].values.flat, strict=True):
        assert f"{visible(token)} +{value:.2f}" in fallback
    assert f"#{int(found['right_top_unit'][0, 0])} " in fallback and f"{float(found['value'][0]):.2f}" in fallback
    pairs = circuit_pairs(model, "qk", 1, 0, k=2)
    text = weights_html(weights_document(model, pairs))
    assert f"{float(pairs['top_value'][0]):+.2f}" in text and f"of {model.d_vocab} rows" in text


def test_what_cannot_be_drawn_is_refused(model, tmp_path):
    found = weights_as_words(model, "out", 0, units=[0, 1], k=2)
    document = weights_document(model, found)
    rows = circuit_of_tokens(model, "ov", 0, 0, [" Mary"], k=2)
    for made, says in (
        (rows, "circuit_of_tokens: expected one of"),
        ({"in": rows}, "circuit_of_tokens: expected one of"),
        ({}, "results of nothing"),
        ({"out": found}, "out of several neurons"),
        ({"in": found.isel(neuron=0), "out": found.isel(neuron=1)}, "neurons .0, 1.: expected all of one"),
        (found.assign(top_value=found["top_value"] * float("nan")), "panels.0..*is nan"),
    ):
        with pytest.raises(CasebackError, match=says):
            weights_document(model, made)
    with pytest.raises(OutOfRange, match="most=0"):
        weights_document(model, found, most=0)
    for made, says in (({"kind": "other"}, "not a document of weights"), ({**document, "version": 9}, "version 9")):
        with pytest.raises(CasebackError, match=says):
            weights_html(made)
    with pytest.raises(CasebackError, match="weights.units is nan"):
        weights_html({**document, "units": float("nan")})
    with pytest.raises(CasebackError, match="there is no folder"):
        write_weights(document, tmp_path / "none" / "a.html")
    with pytest.raises(CasebackError, match="it is a folder"):
        write_weights(document, tmp_path)
    assert write_weights(document, tmp_path / "a.html").read_text(encoding="utf-8") == weights_html(document)


@pytest.mark.browser
def test_the_sizes_of_words():
    node = shutil.which("node")
    frontend = Path(__file__).parents[2] / "frontend"
    if node is None or not frontend.is_dir():
        pytest.skip("node is not installed")
    ran = subprocess.run([node, "--test", "test/cloud_scale.test.js"], cwd=frontend, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
