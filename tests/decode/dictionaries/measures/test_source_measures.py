"""Dictionaries of several sources, target by target: beside those of one source, and where nothing is lost."""

from typing import Any

import pytest
import torch

import caseback as cb
from caseback.decode.dictionaries import (
    BatchTopK,
    BatchTopKCrosscoder,
    CrossLayerTopK,
    Dictionary,
    Facts,
    TopK,
    TopKCrosscoder,
)
from caseback.decode.dictionaries.measures import compare_dictionaries, source_measures
from caseback.decode.dictionaries.measures.source_measures import random_sources
from caseback.errors import ArgumentError, OutOfRange

TEXT = "When {} and {} went to the store, {} gave a drink to {}."
PROMPTS = [TEXT.format(*names) for names in (("Mary", "John", "John", "Mary"), ("Anna", "Tom", "Tom", "Anna"))]
SAME = ("l0", "explained_variance", "explained_variance_tokens", "cosine", "relative_bias", "dead_share", "nearest_row")


def cross(sites: list[str], **more: Any) -> Any:
    facts = Facts(by_norm=True, provenance={"sites": sites})
    return TopKCrosscoder(160, 320, n_sources=len(sites), k=8, facts=facts, **more)


def test_of_one_source_they_are_those_of_the_plain_dictionary():
    model = cb.load("meadow")
    one, plain = cross(["resid_post.1"]), TopK(160, 320, k=8, facts=Facts(site="resid_post.1", by_norm=True))
    plain.load_state_dict({name: value.view_as(plain.state_dict()[name]) for name, value in one.state_dict().items()})
    ours = source_measures(model, {"one": one}, PROMPTS).sel(dictionary="one at resid_post.1")
    theirs = compare_dictionaries(model, {"one": plain}, PROMPTS).sel(dictionary="one")
    for name in (*SAME, "encoder_agreement", "ce_increase", "ce_recovered", "kl"):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5, abs=1e-6), name
    assert 0.2 < float(ours.kl_ratio) / float(theirs.kl_ratio) < 5  # other random errors
    assert ours.attrs["ce_clean"] == pytest.approx(theirs.attrs["ce_clean"], rel=1e-6)
    assert ours.attrs["tokens"] == theirs.attrs["tokens"] and ours.attrs["skipped"] == theirs.attrs["skipped"]


def test_nothing_is_lost_where_all_is_reconstructed_and_all_where_nothing_is():
    model = cb.load("meadow")
    sites = ["resid_post.0", "resid_post.2"]
    whole: Any = TopKCrosscoder(160, 640, n_sources=2, k=320, facts=Facts(provenance={"sites": sites}))
    eye = torch.eye(320)
    whole.W_enc.data, whole.W_dec.data = torch.cat([eye, -eye]), torch.cat([eye, -eye])
    none: Any = cross(sites)
    none.W_dec.data.zero_()
    table = source_measures(model, {"whole": whole, "none": none}, PROMPTS)
    for site in sites:
        best = table.sel(dictionary=f"whole at {site}")
        assert float(best.explained_variance) == pytest.approx(1, abs=1e-5)
        assert abs(float(best.ce_increase)) < 1e-4 and float(best.ce_recovered) == pytest.approx(1, abs=1e-4)
        assert float(table.ce_recovered.sel(dictionary=f"none at {site}")) == pytest.approx(0, abs=1e-5)
    assert set(table.site.values) == set(sites) and set(table.kind.values) == {"trained", "random"}


def test_a_cross_layer_transcoder_has_a_row_for_all_targets_at_once():
    model = cb.load("meadow")
    facts = Facts(site="mlp_in", target="mlp_out")
    one: Any = CrossLayerTopK(160, 4 * 64, n_layers=4, k=8, facts=facts)
    table = source_measures(model, {"clt": one}, PROMPTS).sel(dictionary=["clt at mlp_out.1", "clt at all"])
    assert float(table.ce_increase[1]) != float(table.ce_increase[0])
    assert table.explained_variance.isnull().values.tolist() == [False, True]
    one.W_dec.data.zero_()
    zero = source_measures(model, {"clt": one}, PROMPTS)
    assert zero.ce_recovered.sel(dictionary="clt at all").item() == pytest.approx(0, abs=1e-5)


def test_random_directions_are_as_long_and_as_many():
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(512, 2, 16, generator=draw)
    one = BatchTopKCrosscoder(16, 64, n_sources=2, k=6)
    with torch.no_grad():
        one.settle(x)
    one.eval()
    other: Any = random_sources(one, x)
    torch.testing.assert_close(other.rows().norm(dim=-1), one.rows().norm(dim=-1))
    counts = [float((each.encode(x) != 0).sum(1).double().mean()) for each in (one, other)]
    assert counts[0] == pytest.approx(counts[1], abs=0.05)
    assert float((other.rows() * one.rows()).sum(-1).mean()) < 0.1


def test_what_cannot_be_measured_is_refused():
    model = cb.load("meadow")
    plain: Dictionary = BatchTopK(160, 320, k=4, facts=Facts(site="resid_post.1"))
    bad: dict[str, tuple[Any, Any, str]] = {
        "one source": (model, {"plain": plain}, "SeveralSources"),
        "two models": (model, {"two": cross(["base:resid_post.1", "chat:resid_post.1"])}, "give both by name"),
        "other names": ({"a": model, "b": model}, {"two": cross(["base:resid_post.1", "b:resid_post.1"])}, "a, b"),
        "no site": (model, {"one": cross(["resid_post.1", "resid_post.9"])}, "no one site of meadow"),
        "none": (model, {}, "by name"),
    }
    for given, dictionaries, why in bad.values():
        with pytest.raises(ArgumentError, match=why):
            source_measures(given, dictionaries, PROMPTS)
    with pytest.raises(OutOfRange, match="skip_first"):
        source_measures(model, {"one": cross(["resid_post.1", "resid_post.2"])}, PROMPTS, skip_first=-1)


def test_two_models_each_lose_by_their_own():
    models = {"base": cb.load("meadow"), "chat": cb.load("meadow")}
    one = cross(["base:resid_post.1", "chat:resid_post.1"])
    table = source_measures(models, {"two": one}, PROMPTS)
    both = [table.sel(dictionary=f"two at {name}:resid_post.1") for name in models]
    assert float(both[0].ce_increase) == pytest.approx(float(both[1].ce_increase), rel=1e-5)  # one model twice
