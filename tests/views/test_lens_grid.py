"""The lens grid shows the result's own numbers in every mode, and the followed tokens' ranks below."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

import caseback as cb
from caseback.decode.vocabulary import (
    fit_attention_lens,
    lens_quality,
    logit_lens,
    patchscope,
    read_attention_lens,
    token_identity,
)
from caseback.errors import CasebackError, OutOfRange
from caseback.reports.tables.lens_modes import modes_of
from caseback.reports.tables.lens_rows import by_unit, rows_of
from caseback.reports.tokens_text import visible
from caseback.views.figure.lens_curves import lens_curves
from caseback.views.figure.lens_grid import lens_grid
from caseback.views.numbers_text import number
from caseback.views.text.lens import print_lens
from figures_read import integers_of, numbers_of, pixels_of

PROMPTS = ["Mary went to the store", "the cat"]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def lens(model):
    return logit_lens(model, PROMPTS, targets=[" Mary", " John"], k=3)


def shown(figure):
    """(name, numbers by row and column) of a grid's map, as its script reads them."""
    (grid,) = figure.maps
    shape = len(grid["rows"]), len(grid["cols"])
    return {one["name"]: numbers_of(one).reshape(shape) for one in grid["shown"]}


def close(read, values):
    np.testing.assert_allclose(read, values, atol=np.nanmax(np.abs(values)) / 6e4)


def test_every_mode_draws_the_results_own_numbers(lens):
    figure = lens_grid(lens, title="a <title>")
    assert "a &lt;title&gt;" in figure.html and "a <title>" not in figure.html
    assert figure.modes == ["top", "rank ␣Mary", "rank ␣John", "entropy", "kl", "js", "surprise"]
    read = shown(figure)
    close(read["rank of ␣John"], lens["rank"].values[:, 0, :, 1])
    close(read["KL to the lens, nats"], lens["kl"].values[:, 0])
    assert np.isnan(read["surprise at the next, nats"][:, -1]).all()
    # darker is surer: the shades of the first mode are the probabilities of the likeliest token
    index, _, _ = pixels_of(re.search(r"data-mode='0'.*?href='(data:[^']+)'", figure.drawn)[1])
    assert index[::-1][1:].tolist() == (1 + np.rint(254 * lens["top_prob"].values[1:, 0, :, 0])).tolist()


def test_a_shade_is_darker_the_lower_a_rank(lens):
    figure = lens_grid(lens, mode="rank")
    assert figure.modes[0] == "rank ␣Mary"
    index, _, _ = pixels_of(re.search(r"data-mode='0'.*?href='(data:[^']+)'", figure.drawn)[1])
    ranks = lens["rank"].values[1:, 0, :, 0]
    drawn = index[::-1][1:].astype(int)
    order = np.argsort(ranks.ravel(), kind="stable")
    assert (np.diff(drawn.ravel()[order]) <= 0).all() and drawn.max() > drawn.min()


def test_curves_follow_the_ranks_of_followed_tokens(lens):
    drawn = lens_grid(lens).drawn
    for i, name in enumerate(("␣Mary", "␣John")):
        said = re.findall(rf"<title>{name}, (\w+): ([\d,]+)</title>", drawn)
        expected = lens["rank"].values[:, 0, -1, i].tolist()
        assert [int(rank.replace(",", "")) for _, rank in said] == expected and said[0][0] == "embed"


def test_the_pointer_has_the_likeliest_tokens(lens):
    words = lens_grid(lens).maps[0]["words"]
    index = integers_of(words["i"]).reshape(lens["top_text"].values[:, 0].shape)
    texts = np.array(words["list"])[index]
    assert (texts == np.vectorize(visible)(lens["top_text"].values[:, 0])).all()
    close(numbers_of(words["p"]).reshape(texts.shape), lens["top_prob"].values[:, 0])


def test_a_shorter_prompt_has_only_its_own_columns(lens, model):
    n = len(model.tokens(PROMPTS[1]).text[0])
    figure = lens_grid(lens, batch=1)
    assert len(figure.maps[0]["cols"]) == n and f"position {n - 1} " in figure.drawn
    console = Console(width=60, record=True, no_color=True)
    print_lens(lens, "logit lens", console, batch=1)
    said = console.export_text()
    assert "␣cat" in said and "embed" in said and max(map(len, said.splitlines())) <= 60


def test_a_patchscope_is_drawn_too(model):
    found = patchscope(model, PROMPTS[0], token_identity(), rows=[0, 3], max_new_tokens=2)
    figure = lens_grid(found, mode="surprisal")
    assert [m.name for m in modes_of(found)] == ["top", "rank", "entropy", "surprisal"]
    close(shown(figure)["surprisal, nats"], found["surprisal"].values[:, 0])
    assert figure.maps[0]["notes"][0] == f"said: {visible(str(found['said'].values[0, 0, 0]))}"


@pytest.mark.parametrize(("site", "units", "letter"), [("head_out", [2, 0], "H"), ("mlp_post", [5], "N")])
def test_heads_and_neurons_are_rows_of_their_own(model, site, units, letter):
    found = logit_lens(model, PROMPTS[0], site=site, units=units, targets=" Mary")
    rows = by_unit(found)
    dim = "head" if letter == "H" else "neuron"
    assert rows["component"].values.tolist() == [f"L{i}{letter}{u}" for i in range(model.n_layers) for u in units]
    for name in ("top_text", "kl", "rank"):
        for row in rows["component"].values:
            one = rows[name].sel(component=row)
            assert (one.values == found[name].sel(layer=str(one["layer"].values), **{dim: int(one[dim])}).values).all()
    figure = lens_grid(found, mode="kl")
    close(shown(figure)["KL to the lens, nats"], rows["kl"].values[:, 0])
    assert figure.maps[0]["rowName"] == dim and figure.maps[0]["rows"] == rows["component"].values.tolist()
    assert figure.drawn.count("<title>␣Mary, ") == rows.sizes["component"]
    console = Console(width=70, record=True, no_color=True)
    print_lens(found, "a lens", console, mode="rank")
    said = console.export_text()
    assert f"of each {dim}" in said and f"L3{letter}{units[0]}" in said and "after" not in said


def test_other_readings_keep_their_rows(lens):
    assert by_unit(lens) is lens and rows_of(lens).labels == ["embed", "0", "1", "2", "3"]


def test_an_attention_lens_is_drawn_too(model):
    made = fit_attention_lens(model, PROMPTS, layer=2, rank=1, steps=1, tokens_per_step=4)
    found = read_attention_lens(model, PROMPTS[0], made, units=[3, 1])
    figure = lens_grid(found)
    grid = figure.maps[0]
    close(
        numbers_of(grid["words"]["p"]).reshape(2, -1, grid["words"]["k"])[..., 0],
        found["top_prob"].values[0, 0, :, :, 0].T,
    )
    assert grid["rows"] == ["L2H3", "L2H1"]


def test_what_is_no_grid_is_refused(model, lens):
    with pytest.raises(CasebackError, match="layers by positions"):
        modes_of(logit_lens(model, "the cat", pos=-1))
    with pytest.raises(OutOfRange, match="prompt 2"):
        lens_grid(lens, title="", batch=2)
    with pytest.raises(CasebackError, match="is unknown"):
        lens_grid(lens, title="", mode="entrpy")
    with pytest.raises(CasebackError, match="name one"):
        lens_grid(logit_lens(model, "the cat"), title="", mode="rank")


def test_curves_are_the_measured_numbers(model):
    texts = ["Mary went to the store.", "the cat and the dog"]
    plain, other = lens_quality(model, texts), lens_quality(model, texts[:1])
    drawn = lens_curves({"logit <lens>": plain, "again": plain}).drawn
    assert "logit &lt;lens&gt;" in drawn and "<lens>" not in drawn and drawn.count("class='trend l1'") == 4
    for statistic in ("kl", "bias", "agreement"):
        for layer, value in zip(plain["layer"].values.tolist(), plain[statistic].values.tolist(), strict=True):
            assert f"<title>again, {layer}: {number(value)}</title>" in drawn
    with pytest.raises(CasebackError, match="different corpora"):
        lens_curves({"a": plain, "b": other}, title="")
    with pytest.raises(CasebackError, match="no lens"):
        lens_curves({}, title="")


def test_columns_are_named_by_the_positions_that_were_read(model):
    """Where some positions were read, their own numbers stand at them, not their places among those read."""
    prompt, read = "Mary and John went to", [2, 5]
    words = model.tokenizer(prompt, add_special_tokens=False).tokens()
    expected = [f"{i} {word.replace('Ġ', '␣')}" for i, word in enumerate(["first", *words]) if i in read]
    lens = patchscope(model, prompt, token_identity(), pos=read)
    assert lens_grid(lens).maps[0]["cols"] == expected
    console = Console(width=100, no_color=True, file=io.StringIO())
    print_lens(lens, "lens", console)
    assert all(label in console.file.getvalue() for label in expected)
