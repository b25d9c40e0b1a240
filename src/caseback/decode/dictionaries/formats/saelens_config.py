"""The config of a SAELens dictionary, of any version, as the current one has it.

Version 6 keeps what is known of the model in ``metadata``. Before it everything stood side by side, some keys had
other names and defaults, and a dictionary was TopK by its activation function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.jobs.json_text import expect_form

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_OF_WEIGHTS = (
    "architecture d_in d_sae d_out dtype apply_b_dec_to_input normalize_activations k norm_scaling_factor "
    "rescale_acts_by_decoder_norm"
).split()
_OF_MODEL = (
    "model_name hook_name hook_name_out hook_head_index context_size prepend_bos seqpos_slice dataset_path "
    "model_from_pretrained_kwargs neuronpedia_id sae_lens_version"
).split()


def current(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config as version 6 has it.

    Raises
    ------
    LoadError
        For a config that is not of that form.
    """
    with expect_form(f"{where} has no config of SAELens"):
        metadata = config.get("metadata") or {}
        version = str(config.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
        old = int(version.partition(".")[0]) < 6
        config = _before_6(config) if old else {**config, "metadata": dict(metadata)}
        return {
            **config,
            "apply_b_dec_to_input": config.get("apply_b_dec_to_input", "transcoder" not in str(config["architecture"])),
            "normalize_activations": config.get("normalize_activations") or "none",
        }


def _before_6(config: Mapping[str, Any]) -> dict[str, Any]:
    named = {_RENAMED.get(key, key): value for key, value in config.items()}
    named = {"architecture": "standard", "apply_b_dec_to_input": True, "prepend_bos": True, **named}
    if named.get("activation_fn") == "topk":
        named |= {"architecture": "topk", "k": dict(named.get("activation_fn_kwargs") or {})["k"]}
    if isinstance(named.get("normalize_activations"), bool):
        named["normalize_activations"] = "expected_average_only_in" if named["normalize_activations"] else "none"
    return {
        **{key: named[key] for key in _OF_WEIGHTS if key in named},
        "metadata": {key: named[key] for key in _OF_MODEL if key in named} | dict(config.get("metadata") or {}),
    }
