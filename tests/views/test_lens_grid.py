"""The lens grid shows the result's own numbers in every mode, and the followed tokens' ranks below."""

import io

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
from caseback.views.figure.lens_curves import lens_curves
from caseback.views.figure.lens_grid import lens_grid
from caseback.views.text.lens import print_lens

PROMPTS = ["Mary went to the store", "the cat"]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def lens(model):
    return logit_lens(model, PROMPTS, targets=[" Mary", " John"], k=3)


def test_every_mode_draws_the_results_own_numbers(lens):
    figure = lens_grid(lens, title="a <title>")
    grid, *lines = figure.data
    assert "&lt;title&gt;" in figure.layout.title.text
    assert np.allclose(np.array(grid.z)[1:], lens["top_prob"].values[1:, 0, :, 0])
    buttons = {button.label: button.args[0] for button in figure.layout.updatemenus[0].buttons}
    assert list(buttons) == ["top", "rank ␣Mary", "rank ␣John", "entropy", "kl", "js", "surprise"]
    assert np.allclose(10 ** np.array(buttons["rank ␣John"]["z"][0])[1:], lens["rank"].values[1:, 0, :, 1])
    assert np.allclose(np.array(buttons["kl"]["z"][0])[1:], lens["kl"].values[1:, 0])
    assert buttons["surprise"]["z"][0][0][-1] is None
    for i, line in enumerate(lines):
        assert list(line.y) == lens["rank"].values[:, 0, -1, i].tolist()


def test_the_hover_has_the_likeliest_tokens_and_the_numbers(lens):
    told = lens_grid(lens, title="", mode="kl").data[0].hovertext
    for text in lens["top_text"].values[-1, 0, 2]:
        assert f"<b>{text.replace(' ', '␣')}</b>" in told[-1][2]
    assert "rank of ␣Mary: " in told[-1][2] and "KL to the lens" in told[0][0]


def test_a_shorter_prompt_has_only_its_own_columns(lens, model):
    n = len(model.tokens(PROMPTS[1]).text[0])
    figure = lens_grid(lens, title="", batch=1)
    assert len(figure.data[0].z[0]) == n and f"position {n - 1}" in figure.layout.annotations[0].text
    console = Console(width=60, record=True, no_color=True)
    print_lens(lens, "logit lens", console, batch=1)
    said = console.export_text()
    assert "␣cat" in said and "embed" in said and max(map(len, said.splitlines())) <= 60


def test_a_patchscope_is_drawn_too(model):
    found = patchscope(model, PROMPTS[0], token_identity(), rows=[0, 3], max_new_tokens=2)
    figure = lens_grid(found, title="", mode="surprisal")
    assert [m.name for m in modes_of(found)] == ["top", "rank", "entropy", "surprisal"]
    assert np.allclose(np.array(figure.data[0].z), found["surprisal"].values[:, 0])
    assert "said: " in figure.data[0].hovertext[0][0]


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
    grid, line = lens_grid(found, title="", mode="kl").data
    assert np.allclose(np.array(grid.z), rows["kl"].values[:, 0]) and len(line.y) == rows.sizes["component"]
    assert grid.hovertext[0][0].startswith(f"L0{letter}{units[0]}, position 0")
    axes = lens_grid(found, title="").layout
    assert axes.yaxis.title.text == dim and list(axes.yaxis.ticktext) == rows["component"].values.tolist()
    console = Console(width=70, record=True, no_color=True)
    print_lens(found, "a lens", console, mode="rank")
    said = console.export_text()
    assert f"of each {dim}" in said and f"L3{letter}{units[0]}" in said and "after" not in said


def test_other_readings_keep_their_rows(lens):
    assert by_unit(lens) is lens and rows_of(lens).labels == ["embed", "0", "1", "2", "3"]


def test_an_attention_lens_is_drawn_too(model):
    made = fit_attention_lens(model, PROMPTS, layer=2, rank=1, steps=1, tokens_per_step=4)
    found = read_attention_lens(model, PROMPTS[0], made, units=[3, 1])
    figure = lens_grid(found, title="")
    assert np.allclose(np.array(figure.data[0].z), found["top_prob"].values[0, 0, :, :, 0].T)
    assert list(figure.layout.yaxis.ticktext) == ["L2H3", "L2H1"]


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
    figure = lens_curves({"logit <lens>": plain, "again": plain}, title="")
    assert [line.name for line in figure.data[:1]] == ["logit &lt;lens&gt;"] and len(figure.data) == 6
    for line, statistic in zip(figure.data, ("kl", "bias", "agreement"), strict=False):
        assert np.allclose(line.y, plain[statistic].values)
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
    figure = lens_grid(lens, title="")
    assert list(figure.layout.xaxis.ticktext) == expected
    assert all(
        f"position {at} " in text for row in figure.data[0].hovertext for at, text in zip(read, row, strict=True)
    )
    console = Console(width=100, no_color=True, file=io.StringIO())
    print_lens(lens, "lens", console)
    assert all(label in console.file.getvalue() for label in expected)
