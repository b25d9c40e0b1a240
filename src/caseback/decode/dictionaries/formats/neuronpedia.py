"""What is known of features, as Neuronpedia and graph viewers read it: a JSON file each, or batches of dashboards.

    {index}.json        examples by quantile, tokens that a feature promotes, a histogram     graph viewers
    batch-{n}.json      the same, under the names of SAEDashboard                             Neuronpedia's upload

What is not known is an empty list, as their own writers leave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caseback.errors import ArgumentError
from caseback.jobs.json_text import expect_form
from caseback.jobs.safe_files import read_json
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.arguments import checked

_ROWS = ("neuron_alignment", "correlated_neurons", "correlated_features")


@dataclass(frozen=True)
class FeatureExample:
    """One text at which a feature is looked at.

    Attributes
    ----------
    tokens
        As text.
    activations
        The feature's code at each.
    at
        Which token it was chosen for.
    repeated
        Whether the same text stands among the examples before.
    """

    tokens: Sequence[str]
    activations: Sequence[float]
    at: int
    repeated: bool = False


@dataclass(frozen=True, kw_only=True)
class FeatureRecord:
    """What is known of one feature.

    Attributes
    ----------
    index
        Its number in the dictionary.
    examples
        By the name of their quantile (``"Top activations"``).
    promotes, suppresses
        Tokens whose logits it raises or lowers most, each with by how much.
    smallest, largest
        Of its codes.
    quantiles
        Of its codes where it is active.
    histogram
        How many codes fall into each of equal bins from ``smallest`` to ``largest``.
    frequency
        At which share of tokens it is active.
    """

    index: int
    examples: Mapping[str, Sequence[FeatureExample]] = field(default_factory=dict)
    promotes: Sequence[tuple[str, float]] = ()
    suppresses: Sequence[tuple[str, float]] = ()
    smallest: float = 0.0
    largest: float = 0.0
    quantiles: Sequence[float] = ()
    histogram: Sequence[float] = ()
    frequency: float = 0.0


@checked
def write_features(records: Sequence[FeatureRecord], folder: str | Path, *, transcoder: str) -> None:
    """Write a JSON file a feature, as viewers of attribution graphs read them.

    Parameters
    ----------
    records
        Any number of features.
    folder
        Is there afterwards; ``{index}.json`` in it.
    transcoder
        The dictionary's name there.

    Examples
    --------
    >>> import tempfile
    >>> text = FeatureExample([" the", " cat"], [0.0, 2.5], 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_features([FeatureRecord(index=7, examples={"Top": [text]}, largest=2.5)], folder, transcoder="cats")
    ...     read_feature(f"{folder}/7.json").examples["Top"][0].activations
    [0.0, 2.5]
    """
    place = make_folder(folder, "features")
    for record in records:
        quantiles = [
            {"quantile_name": name, "examples": [_example(one, record) for one in examples]}
            for name, examples in record.examples.items()
        ]
        data = {
            "transcoder_id": transcoder,
            "index": record.index,
            "examples_quantiles": quantiles,
            "top_logits": [token for token, _ in record.promotes],
            "bottom_logits": [token for token, _ in record.suppresses],
            "act_min": record.smallest,
            "act_max": record.largest,
            "quantile_values": list(record.quantiles),
            "histogram": list(record.histogram),
            "activation_frequency": record.frequency,
        }
        _write(data, place / f"{int(record.index)}.json")


@checked
def read_feature(path: str | Path) -> FeatureRecord:
    """Read a feature's JSON file; by how much its logits move is not in it.

    Raises
    ------
    LoadError
        For a file of another form.
    """
    data = read_json(path)
    with expect_form(f"{path} holds no feature"):
        examples = {
            str(each["quantile_name"]): [
                FeatureExample(
                    [str(token) for token in one["tokens"]],
                    [float(value) for value in one["tokens_acts_list"]],
                    int(one["train_token_ind"]),
                    bool(one.get("is_repeated_datapoint", False)),
                )
                for one in each["examples"]
            ]
            for each in data["examples_quantiles"]
        }
        return FeatureRecord(
            index=int(data["index"]),
            examples=examples,
            promotes=[(str(token), float("nan")) for token in data.get("top_logits") or ()],
            suppresses=[(str(token), float("nan")) for token in data.get("bottom_logits") or ()],
            smallest=float(data.get("act_min") or 0),
            largest=float(data.get("act_max") or 0),
            quantiles=[float(value) for value in data.get("quantile_values") or ()],
            histogram=[float(value) for value in data.get("histogram") or ()],
            frequency=float(data.get("activation_frequency") or 0),
        )


@checked
def write_dashboards(
    records: Sequence[FeatureRecord],
    folder: str | Path,
    *,
    model: str,
    layer: int,
    dictionary: str,
    size: int = 128,
    prompts: int = 0,
    tokens: int = 0,
    dataset: str = "",
) -> None:
    """Write dashboards in batches, as Neuronpedia takes them: ``batch-{n}.json``.

    Parameters
    ----------
    records
        Any number of features.
    folder
        Is there afterwards.
    model, layer, dictionary
        Neuronpedia's names: a feature is then ``model/{layer}-{dictionary}/{index}``.
    size
        Features a batch; SAEDashboard's default.
    prompts, tokens, dataset
        How many texts of how many tokens were looked at, and of what.
    """
    place = make_folder(folder, "dashboards")
    shared = {"n_prompts_total": prompts, "n_tokens_in_prompt": tokens, "dataset": dataset}
    for number, start in enumerate(range(0, len(records), size)):
        features = [_dashboard(record, shared) for record in records[start : start + size]]
        data = {"model_id": model, "layer": layer, "sae_set": dictionary, "sae_id_suffix": None, "features": features}
        _write(data, place / f"batch-{number}.json")


def _dashboard(record: FeatureRecord, shared: Mapping[str, Any]) -> dict[str, Any]:
    edges = len(record.histogram)
    width = (record.largest - record.smallest) / edges if edges else 0.0
    rows = {f"{name}_{part}": [] for name in _ROWS for part in ("indices", "l1" if "cor" in name else "values")}
    rows |= {f"{name}_pearson": [] for name in _ROWS[1:]} | {"neuron_alignment_l1": []}
    activations = []
    for examples in record.examples.values():
        largest = [max(one.activations, default=0.0) for one in examples]
        total = sum(len(one) for one in record.examples.values())
        for one in examples:
            activations.append(
                {
                    "bin_min": min(largest),
                    "bin_max": max(largest),
                    "bin_contains": len(examples) / total,
                    "tokens": list(one.tokens),
                    "values": _example(one, record)["tokens_acts_list"],
                    "qualifying_token_index": one.at,
                }
            )
    return {
        "feature_index": record.index,
        **rows,
        "pos_str": [token for token, _ in record.promotes],
        "pos_values": [value for _, value in record.promotes],
        "neg_str": [token for token, _ in record.suppresses],
        "neg_values": [value for _, value in record.suppresses],
        "frac_nonzero": record.frequency,
        "freq_hist_data_bar_values": [record.smallest + width * (bar + 0.5) for bar in range(edges)],
        "freq_hist_data_bar_heights": list(record.histogram),
        "logits_hist_data_bar_values": [],
        "logits_hist_data_bar_heights": [],
        "decoder_weights_dist": [],
        "vector": [],
        **shared,
        "activations": activations,
    }


def _example(one: FeatureExample, record: FeatureRecord) -> dict[str, Any]:
    if len(one.tokens) != len(one.activations) or not 0 <= one.at < len(one.tokens):
        raise ArgumentError(
            f"an example of feature {record.index} has {len(one.tokens)} tokens, {len(one.activations)} codes and was "
            f"chosen for token {one.at}: expected as many, and one of them"
        )
    return {
        "tokens_acts_list": [float(value) for value in one.activations],
        "train_token_ind": one.at,
        "is_repeated_datapoint": one.repeated,
        "tokens": list(one.tokens),
    }


def _write(data: Mapping[str, Any], path: Path) -> None:
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{path.name} would hold what is no number or text: {error}") from None
    with whole_file(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
