"""Features as viewers read them: the keys of their files, there and back."""

import json
import math

import pytest

from caseback.decode.dictionaries.formats.neuronpedia import (
    FeatureExample,
    FeatureRecord,
    read_feature,
    write_dashboards,
    write_features,
)
from caseback.errors import ArgumentError, LoadError


def _record(index: int) -> FeatureRecord:
    texts = [FeatureExample([" a", " b", " ü"], [0.0, 1.5, 0.25], 1), FeatureExample([" c"], [0.5], 0, True)]
    return FeatureRecord(
        index=index,
        examples={"Top activations": texts, "Interval 0": texts[1:]},
        promotes=[(" x", 2.0), (" y", 1.0)],
        suppresses=[(" z", -1.0)],
        largest=2.0,
        quantiles=[0.5, 1.0],
        histogram=[3, 1],
        frequency=0.01,
    )


def test_a_feature_goes_there_and_back(tmp_path):
    index = 70_000 * 70_000  # pairs of layer and feature are larger than 32 bits hold
    write_features([_record(index), _record(2)], tmp_path, transcoder="t")
    data = json.loads((tmp_path / f"{index}.json").read_text(encoding="utf-8"))
    keys = "transcoder_id index examples_quantiles top_logits bottom_logits act_min act_max quantile_values histogram activation_frequency"
    assert list(data) == keys.split()
    assert data["examples_quantiles"][0]["examples"][0] == {
        "tokens_acts_list": [0.0, 1.5, 0.25],
        "train_token_ind": 1,
        "is_repeated_datapoint": False,
        "tokens": [" a", " b", " ü"],
    }
    again, one = read_feature(tmp_path / f"{index}.json"), _record(index)
    assert again.examples == one.examples and again.index == index
    assert [token for token, _ in again.promotes] == [" x", " y"]
    assert (again.histogram, again.quantiles, again.frequency) == ([3.0, 1.0], [0.5, 1.0], 0.01)


def test_what_viewers_require_is_enough(tmp_path):
    (tmp_path / "3.json").write_text(json.dumps({"index": 3, "examples_quantiles": []}))
    assert read_feature(tmp_path / "3.json") == FeatureRecord(
        index=3, promotes=[], suppresses=[], quantiles=[], histogram=[]
    )
    for text in (
        '{"index": 3}',
        '{"index": "x", "examples_quantiles": []}',
        '{"index": 3, "examples_quantiles": [{}]}',
        "[",
    ):
        (tmp_path / "3.json").write_text(text)
        with pytest.raises(LoadError):
            read_feature(tmp_path / "3.json")


def test_dashboards_come_in_batches(tmp_path):
    write_dashboards(
        [_record(i) for i in range(5)],
        tmp_path,
        model="gpt2-small",
        layer=3,
        dictionary="res-jb",
        size=2,
        prompts=10,
        tokens=128,
    )
    batches = [json.loads((tmp_path / f"batch-{n}.json").read_text(encoding="utf-8")) for n in range(3)]
    assert [feature["feature_index"] for batch in batches for feature in batch["features"]] == list(range(5))
    feature = batches[0]["features"][0]
    keys = (
        "feature_index neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices "
        "correlated_neurons_l1 correlated_neurons_pearson correlated_features_indices correlated_features_l1 "
        "correlated_features_pearson neg_str neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_values "
        "freq_hist_data_bar_heights logits_hist_data_bar_values logits_hist_data_bar_heights n_prompts_total "
        "n_tokens_in_prompt dataset decoder_weights_dist vector activations"
    )
    assert set(feature) == set(keys.split())
    assert feature["freq_hist_data_bar_values"] == [0.5, 1.5]
    shares = [one["bin_contains"] for one in feature["activations"]]
    assert shares == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert feature["activations"][0]["bin_max"] == 1.5 and feature["activations"][0]["qualifying_token_index"] == 1


def test_examples_that_do_not_fit_and_numbers_that_are_none(tmp_path):
    for wrong in (
        FeatureExample(["a"], [1.0, 2.0], 0),
        FeatureExample(["a"], [1.0], 1),
        FeatureExample(["a"], [math.nan], 0),
    ):
        with pytest.raises(ArgumentError):
            write_features([FeatureRecord(index=0, examples={"x": [wrong]})], tmp_path, transcoder="t")
