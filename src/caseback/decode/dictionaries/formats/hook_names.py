"""Names of places in a model, as published dictionaries have them, and ours; both ways.

    blocks.5.hook_resid_post     TransformerLens      resid_post.5
    model.layers.5.output        Hugging Face         resid_post.5
    layers.5, layers.5.mlp       sparsify             resid_post.5, mlp_out.5

What TransformerLens calls ``ln2.hook_normalized`` is not multiplied by the norm's gain, and ``mlp_norm`` here is:
``mlp.hook_in`` there. A dictionary that reads the former is marked (``WITHOUT_GAIN``), and the gain is divided out of
its encoder where the model is at hand.
"""

from __future__ import annotations

import re

from caseback.errors import UnknownSite
from caseback.model.anatomy.sites import MODULE_ENDS, Site, as_site
from caseback.model.running.model import Model

WITHOUT_GAIN = "read without the norm's gain"
"""The key of ``Facts.provenance`` that says so."""

_NORMALIZED = {"ln1.hook_normalized": "attn_norm", "ln2.hook_normalized": "mlp_norm"}
_MODULE_INPUTS = {"mlp.hook_in": "mlp_norm", "attn.hook_in": "attn_norm"}
_HOOKS = {site: hook for hook, site in _MODULE_INPUTS.items()}
_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks|block)\.(\d+)(?:\.(.+))?")
_PARTS: dict[tuple[str, str], str] = {
    ("", "output"): "resid_post",
    ("", "input"): "resid_pre",
    **dict.fromkeys([("mlp", "output"), ("feed_forward", "output")], "mlp_out"),
    **dict.fromkeys([("mlp", "input"), ("feed_forward", "input")], "mlp_norm"),
    **dict.fromkeys([("self_attn", "output"), ("attn", "output"), ("attention", "output")], "attn_out"),
    **dict.fromkeys([("self_attn.o_proj", "input"), ("attn.c_proj", "input"), ("attention.dense", "input")], "z"),
    ("pre_feedforward_layernorm", "output"): "mlp_norm",
    ("post_feedforward_layernorm", "output"): "mlp_out",
}
_HOOKPOINTS = {
    "embed": "embed_tokens",
    "resid_post": "layers.{}",
    "mlp_out": "layers.{}.mlp",
    "mlp_norm": "layers.{}.mlp",
    "attn_out": "layers.{}.self_attn",
}


def site_of_hook(hook: str, layer: int | None = None) -> tuple[str, bool]:
    """A site by its TransformerLens name.

    Parameters
    ----------
    hook
        ``"blocks.5.hook_resid_post"``, or without the block where the layer is given.
    layer
        The layer, where the name does not say it.

    Returns
    -------
    The site, empty for a name that is none, and whether it is read there without the norm's gain.

    Examples
    --------
    >>> site_of_hook("blocks.8.ln2.hook_normalized")
    ('mlp_norm.8', True)
    >>> site_of_hook("mlp.hook_in", 8)
    ('mlp_norm.8', False)
    """
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    inner, layer = (block[2], int(block[1])) if block else (hook, layer)
    name = _NORMALIZED.get(inner) or _MODULE_INPUTS.get(inner)
    if name is not None:
        return (f"{name}.{layer}" if layer is not None else name), inner in _NORMALIZED
    try:
        site = as_site(hook if block or layer is None else f"blocks.{layer}.{hook}")
    except UnknownSite:
        return site_of_module(hook) if hook.endswith((".input", ".output")) else "", False
    return str(site), False


def hook_of_site(site: str) -> str:
    """The TransformerLens name of a site; a module's path stays as it is.

    Examples
    --------
    >>> hook_of_site("mlp_norm.8"), hook_of_site("resid_post.3")
    ('blocks.8.mlp.hook_in', 'blocks.3.hook_resid_post')
    """
    if not site:
        return ""
    place = place_of(site)
    hook = _HOOKS.get(place.name)
    return place.hook_name if hook is None else f"blocks.{place.layer}.{hook}"


def site_of_module(path: str, model: Model | None = None) -> str:
    """A site by a Hugging Face module's path with ``.input`` or ``.output`` behind it.

    Parameters
    ----------
    path
        From the model, or from its inner one without a head (``layers.5.mlp.output``).
    model
        If it is at hand, its own anatomy is asked. Without it an MLP's output is taken for what is added to the
        stream, which it is not where a norm stands behind it.

    Examples
    --------
    >>> site_of_module("model.layers.17.output"), site_of_module("h.3.input")
    ('resid_post.17', 'resid_pre.3')
    """
    module, _, end = path.rpartition(".")
    if model is not None:
        names = [name for name, _ in model.hf.named_modules() if name == module or name.endswith(f".{module}")]
        module = min(names, key=len, default=module)
        if names and end == "output":
            return _of_output(model, module)
    if module.rpartition(".")[2] in ("embed_tokens", "wte", "embed_in") and end == "output":
        return "embed"
    layer = _LAYER.fullmatch(module)
    name = _PARTS.get((layer[2] or "", end)) if layer else None
    return f"{name}.{layer[1]}" if layer and name else f"{module}.{end}"


def _of_output(model: Model, module: str) -> str:
    try:
        return str(next(iter(model.anatomy.sites(module))))
    except UnknownSite:
        return f"{module}.output"


def hookpoint_of_site(site: str) -> str:
    """The name of the module whose output it is, or whose input for a transcoder, as sparsify names its folders."""
    place = place_of(site)
    if place.name in _HOOKPOINTS:
        return _HOOKPOINTS[place.name].format(place.layer)
    return place.name.removesuffix(".output").removesuffix(".input") if place.is_module else str(place)


def place_of(site: str) -> Site:
    """A site by its name, or by a module's path with its end."""
    return Site(site) if site.endswith(MODULE_ENDS) else as_site(site)
