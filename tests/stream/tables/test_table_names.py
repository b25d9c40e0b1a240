"""Tables by name: options as plain data, and what is refused."""

import json

import pytest
import torch

import naive_tables as naive
import shelf
from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.running.edits import Apply
from caseback.stream.one_pass import pass_over
from caseback.stream.tables.neurons.windows import NeuronWindows
from caseback.stream.tables.registry import TABLES, tables_of


@pytest.mark.parametrize("name", TABLES)
def test_options_are_plain_data_that_make_the_table_again(name):
    table = TABLES[name]()
    (again,) = tables_of({name: json.loads(json.dumps(table.options()))}).values()
    assert again == table


def test_two_of_a_kind_have_names_of_their_own():
    tables = tables_of(["stream_moments", NeuronWindows(k=3), {"stream_moments": {"site": "attn_out"}}])
    assert list(tables) == ["stream_moments", "neuron_windows", "stream_moments_2"]
    assert tables["stream_moments_2"].site == "attn_out"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("neuron_window", "Did you mean neuron_windows"),
        ({"neuron_windows": {"kk": 3}}, "no option 'kk'"),
        ({"neuron_windows": 3}, "expected them by name"),
        ([3], "3 is no table"),
        ({"attention_relations": {"relations": ["inductive"]}}, "no relation is called 'inductive'"),
    ],
)
def test_what_is_no_table_is_refused(given, words):
    with pytest.raises(CasebackError, match=words):
        tables_of(given)


@pytest.mark.parametrize(
    ("name", "options"),
    [("neuron_windows", {"k": 0}), ("reservoir", {"size": 0}), ("token_counts", {"n": 0})],
)
def test_sizes_that_leave_nothing_are_refused(name, options):
    with pytest.raises(OutOfRange, match="expected 1"):
        tables_of({name: options})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("second_moments", {"site": "z"}, "head_moments"),
        ("second_moments", {"layers": (7,)}, "at layer 7"),
        ("head_moments", {"site": "resid_post"}, "expected a site of heads"),
        ("reservoir", {"of": ("pattern",)}, "no vector per token"),
        ("stream_moments", {"site": "embed"}, "expected a site that layers have"),
        ("neuron_moments", {"of": ("expert",)}, "no mixture of experts"),
    ],
)
def test_a_site_that_a_table_is_not_of_is_refused(name, options, words):
    table = TABLES[name](**options)
    with pytest.raises(SiteAbsent, match=words):
        table.sites(shelf.model("gpt2").anatomy)
    assert words in table.absent(shelf.model("gpt2").anatomy)


def test_groups_that_do_not_exist_are_refused():
    model = shelf.model("gpt2")
    corpus = naive.corpus_of(model, read=[])
    for groups, words in (("kind", "Did you mean kinds"), ("label:genre:3", "no label 'genre'")):
        table = TABLES["neuron_groups"](groups=(groups,))
        with pytest.raises(CasebackError, match=words):
            pass_over(model, corpus.block(), {"it": table}, corpus.kinds, batch_tokens=30)


@pytest.mark.parametrize("options", [{}, {"per_document": False}])
def test_what_is_no_number_is_not_ranked(options):
    model = shelf.model("gpt2").edited([Apply("mlp_post", lambda old: old * torch.nan, layer=1, pos=0)])
    corpus = naive.corpus_of(model, read=[])
    with pytest.raises(CasebackError, match="mlp_post.1 has a NaN"):
        pass_over(model, corpus.block(), {"it": NeuronWindows(**options)}, corpus.kinds, batch_tokens=1)
