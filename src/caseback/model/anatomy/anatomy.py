"""Anatomy: where the parts of one decoder are.

``Anatomy`` is a family's declaration resolved on a model in hand: modules, head counts, the output rows of each head's
query, key and value. Nothing here runs the model; ``verify`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from caseback.errors import AnatomyError, UnknownSite, did_you_mean
from caseback.model.anatomy.classes import classes_of
from caseback.model.anatomy.coerce import as_integer
from caseback.model.anatomy.context import context_of
from caseback.model.anatomy.dense import Projection, is_packed, weight_shape
from caseback.model.anatomy.family import Dims, Family
from caseback.model.anatomy.norms import Norms
from caseback.model.anatomy.sites import MODULE_ENDS, SITES, Site, parse


def _find(root: nn.Module, path: str | None) -> nn.Module | None:
    """The submodule at the first of the alternatives that exists."""
    for option in (path or "").split("|"):
        try:
            part = attrgetter(option)(root) if option else None
        except AttributeError:
            continue
        if isinstance(part, nn.Module) and not isinstance(part, nn.Identity):
            return part
    return None


def _part(root: nn.Module, path: str) -> Any:
    """What is at a path, which need not be a module."""
    try:
        return attrgetter(path)(root)
    except AttributeError:
        return None


@dataclass(frozen=True)
class LayerParts:
    """The modules of one decoder layer."""

    layer: nn.Module
    attn: nn.Module
    mlp: nn.Module | None
    mlp_beside: nn.Module | None
    attn_norm: nn.Module | None
    mlp_norm: nn.Module | None
    attn_post_norm: nn.Module | None
    mlp_post_norm: nn.Module | None
    shared_norm: bool
    parallel: bool
    q: Projection | None
    k: Projection | None
    v: Projection | None
    o: nn.Module
    w_in: nn.Module | None
    w_gate: nn.Module | None
    gate_up: nn.Module | None
    w_out: nn.Module | None
    act: nn.Module | Callable | None
    router: nn.Module | None
    experts: nn.Module | None
    dims: Dims
    d_z: int
    """Width of a head's value and z: equal to ``d_head`` except in latent attention and MiMo's."""


class Anatomy:
    """A family's declaration resolved on a model.

    Attributes
    ----------
    embed, pos_embed, final_norm, unembed
        Modules (``pos_embed`` and ``final_norm`` may be None).
    layers
        One ``LayerParts`` a layer.
    classes, d_logits
        The classes of a decoder with a classification head, else None; how many logits a position has.
    d_model, d_vocab, n_layers, n_heads, n_kv_heads, d_head, d_mlp
        Sizes. Heads are those of layer 0; ``layers[l].dims`` has each layer's.
    """

    standing: tuple[Any, ...] = ()
    """Edits, with their sites, that every pass starts under; see ``Model.edited``."""

    def __init__(self, hf: Any, family: Family):
        self.hf, self.family, self.config = hf, family, hf.config.get_text_config()
        self.tokenizer: Any = None
        self.model_type = str(self.config.model_type)
        stack = self._top(family.layers)
        if not isinstance(stack, nn.ModuleList) or len(stack) == 0:
            raise AnatomyError(f"{type(hf).__name__}: no list of decoder layers at {family.layers!r}")
        self.embed = self._needed(self._top(family.embed), family.embed, "token embedding")
        self.embed_project = self._top(family.embed_project)
        self.embed_norm = self._top(family.embed_norm)
        self.pos_embed = self._top(family.pos_embed)
        self.final_norm = self._top(family.final_norm)
        self.unembed_project = self._top(family.unembed_project)
        self.embed_whole = self._top(family.embed_whole)
        self.classes = classes_of(hf)
        unembed = family.unembed if self.classes is None else "score"
        self.unembed = self._needed(self._top(unembed), unembed, "unembedding")
        self.embed_scale = float(family.embed_scale(self.config, self.embed))
        self.residual_scale = float(family.residual_scale(self.config))
        plain = self.classes is not None  # a classifier's head is a matrix, whatever the language model's is
        self.logit_scale = 1.0 if plain else float(family.logit_scale(self.config))
        self.logit_softcap = None if plain else family.logit_softcap(self.config)
        self.n_layers = int(getattr(self.config, "num_hidden_layers", len(stack)))
        self.d_model = int(self.config.hidden_size)
        self.layers = [self._layer(module) for module in list(stack)[: self.n_layers]]
        first = self.layers[0]
        self.n_heads, self.n_kv_heads, self.d_head = first.dims.n_heads, first.dims.n_kv_heads, first.dims.d_head
        for p in self.layers:
            for module in (p.o, p.w_in, p.w_gate, p.gate_up, p.w_out):
                if module is not None:
                    weight_shape(module)  # refuses what has no matrix
        self.packed = {type(m): m for m in hf.modules() if is_packed(m) and not isinstance(m, nn.Embedding)}
        self._modules = [(module, dict(module._modules)) for module in hf.modules()]
        self.d_mlp = next((weight_shape(p.w_out)[0] for p in self.layers if p.w_out is not None), None)

    def _top(self, path: str | None) -> nn.Module | None:
        """A part of the whole model; one that also sees or hears has its decoder in a model of its own."""
        options = [option for option in (path or "").split("|") if option.startswith("model.")]
        decoders = ("model.language_model.", "model.text_model.")
        inner = "|".join(inside + option.removeprefix("model.") for option in options for inside in decoders)
        return _find(self.hf, path) or _find(self.hf, inner)

    def _need(self, root: nn.Module, path: str | None, what: str) -> nn.Module:
        return self._needed(_find(root, path), path, what)

    def _needed(self, part: nn.Module | None, path: str | None, what: str) -> nn.Module:
        if part is None:
            raise AnatomyError(f"{type(self.hf).__name__} (model type {self.model_type!r}): no {what} at {path!r}")
        return part

    def _layer(self, layer: nn.Module) -> LayerParts:
        family = self.family
        attn = self._need(layer, family.attn, "attention module")
        mlp = layer if family.mlp_is_layer else self._need(layer, family.mlp, "MLP")
        o = _find(attn, family.o) or self._need(layer, family.o, "attention output projection")
        dims, d_z, q, k, v = self._heads(attn, o)
        experts = _find(mlp, family.experts)
        dense = mlp if experts is None else None
        if dense is not None and not (_find(dense, family.w_in) or _find(dense, family.gate_up)):
            raise AnatomyError(f"{type(dense).__name__}: no input projection of the MLP at {family.w_in!r}")
        parallel = bool(family.parallel(self.config))
        post_norm = _find(layer, family.attn_post_norm)
        if family.before_o is not None and post_norm is not None and getattr(o, "bias", None) is not None:
            raise AnatomyError(
                f"{type(attn).__name__}: with {family.before_o} before W_O and a norm after it, the share of b_O "
                "in the write cannot be told"
            )
        attn_norm, mlp_norm = _find(layer, family.attn_norm), _find(layer, family.mlp_norm)
        return LayerParts(
            layer=layer,
            attn=attn,
            mlp=None if family.mlp_is_layer else mlp,
            mlp_beside=_find(layer, family.mlp_beside),
            attn_norm=attn_norm,
            mlp_norm=attn_norm if parallel and mlp_norm is None else mlp_norm,
            attn_post_norm=post_norm,
            mlp_post_norm=_find(layer, family.mlp_post_norm),
            shared_norm=parallel and (mlp_norm is None or mlp_norm is attn_norm),
            parallel=parallel,
            q=q,
            k=k,
            v=v,
            o=o,
            w_in=_find(dense, family.w_in) if dense else None,
            w_gate=_find(dense, family.w_gate) if dense else None,
            gate_up=_find(dense, family.gate_up) if dense else None,
            w_out=_find(dense, family.w_out) if dense else None,
            act=_part(dense, family.act) if dense else None,
            router=_find(mlp, family.router) if experts is not None else None,
            experts=experts,
            dims=dims,
            d_z=d_z,
        )

    def _heads(
        self, attn: nn.Module, o: nn.Module
    ) -> tuple[Dims, int, Projection | None, Projection | None, Projection | None]:
        """Head counts, and the rows of each head, checked against the sizes of the projections."""
        family, config = self.family, self.config
        n_heads = int(family.heads(config, attn))
        d_z = weight_shape(o)[0] // n_heads
        fused = _find(attn, family.qkv)
        if fused is not None:
            total = weight_shape(fused)[1]
            n_kv = family.kv_heads(config) or n_heads
            d_head = total // (n_heads + 2 * n_kv)
            dims = Dims(n_heads, n_kv, d_head)
            rows = family.layout(dims)
            q, k, v = (Projection(fused, r) for r in rows)
            return dims, d_z, q, k, v
        projections = [_find(attn, path) for path in (family.q, family.k, family.v)]
        modules = [module for module in projections if module is not None]
        if len(modules) < len(projections):
            d_qk = getattr(config, "qk_head_dim", None) or d_z
            return Dims(n_heads, family.kv_heads(config) or n_heads, int(d_qk)), d_z, None, None, None
        q_size, k_size, v_size = (weight_shape(module)[1] for module in modules)
        d_head = q_size // n_heads
        n_kv = k_size // d_head
        if q_size % n_heads or k_size % d_head or v_size != n_kv * d_z:
            raise AnatomyError(
                f"{type(attn).__name__}: query, key and value projections of {q_size}, {k_size} and {v_size} outputs "
                f"do not split into {n_heads} heads"
            )
        dims = Dims(n_heads, n_kv, d_head)
        sizes = ((n_heads, d_head), (n_kv, d_head), (n_kv, d_z))
        rows = [torch.arange(n * d).view(n, d) for n, d in sizes]
        q, k, v = (Projection(module, r) for module, r in zip(modules, rows, strict=True))
        return dims, d_z, q, k, v

    @property
    def device(self) -> torch.device:
        """Where prompts go: the device of the token embedding, the CPU while that is offloaded."""
        device = next(self.embed.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def context(self) -> int | None:
        """The longest prompt, where the model has one."""
        return context_of(self.config)

    @property
    def head_site(self) -> str:
        """Where a head is read: at ``z`` where it writes z W_O, at ``head_out`` where something stands between."""
        return "z" if self.before_write is None else "head_out"

    @property
    def before_write(self) -> str | None:
        """What beside W_O stands between a head's z and what it writes, or None."""
        edits = (f"an edit of {site.written.name!r}" for site, _ in self.standing if site.written.name == "head_out")
        return next(edits, self.family.before_o)

    @cached_property
    def lacks(self) -> dict[str, str]:
        """Sites that this model does not have, with the reason. A site absent in some layers only is not here."""
        missing = dict(self.family.lacks)

        def absent(name: str, why: str, has: Callable[[LayerParts], Any]) -> None:
            if not any(has(parts) for parts in self.layers):
                missing.setdefault(name, why)

        if self.pos_embed is None:
            missing.setdefault("pos_embed", "positions are not embedded (rotary, ALiBi or none)")
        for name in ("attn_norm", "attn_norm.scale"):
            absent(name, "attention reads the stream without a norm", lambda p: p.attn_norm)
        for name in ("mlp_norm", "mlp_norm.scale"):
            absent(name, "the MLP reads the stream without a norm", lambda p: p.mlp_norm)
        absent("resid_mid", "attention and MLP run in parallel", lambda p: not p.parallel)
        for name in ("q_in", "k_in", "v_in"):
            absent(name, "queries, keys and values come from a shared latent", lambda p: p.q)
        absent("mlp_pre", "no dense MLP: each expert has its own neurons", lambda p: p.w_in or p.gate_up)
        absent("mlp_post", "no dense MLP: each expert has its own neurons", lambda p: p.w_out)
        absent("mlp_gate", "the MLP has no gate", lambda p: p.w_gate or p.gate_up)
        for name in ("router", "expert"):
            absent(name, "no mixture of experts", lambda p: p.experts)
        if self.final_norm is None:
            for name in ("final_norm", "final_norm.scale"):
                missing.setdefault(name, "the model has no final norm")
        return missing

    def has(self, site: Site) -> bool:
        """Whether this model has the site, in that layer."""
        if site.name in self.lacks:
            return False
        if site.layer is None:
            return True
        view = site.kind.view
        if view is not None:
            return site.layer in view.codecs and self.has(site.base)
        p = self.layers[site.layer]
        needs = {
            "mlp_pre": p.w_in or p.gate_up,
            "mlp_post": p.w_out,
            "mlp_gate": p.w_gate or p.gate_up,
            "router": p.router,
            "expert": p.experts,
        }
        return needs.get(site.name, True) is not None

    def sites(self, given: Any) -> Iterator[Site]:
        """Resolve what a user named to sites of this model.

        Parameters
        ----------
        given
            A ``Site``, a name (all its layers), ``(name, layer)``, a hook name, the Hugging Face path of a module whose
            output is a site, or any module's path with ``.input`` or ``.output`` behind it.

        Raises
        ------
        UnknownSite
            For a name that is no site, one that this model lacks, or a layer out of range.
        """
        path = given if isinstance(given, str) else given[0] if isinstance(given, tuple) and given else None
        if isinstance(path, str) and path not in SITES and path.endswith(MODULE_ENDS):
            yield self._module_site(path)
            return
        if isinstance(given, Site):
            name, layer = given[0], None if given[1] is None else as_integer(given[1], "layer", UnknownSite)
        elif isinstance(given, str):
            name, layer = self._paths.get(given) or self._from_hook(given)
        elif isinstance(given, tuple) and len(given) == 2:
            name, layer = parse(str(given[0]))[0], as_integer(given[1], "layer", UnknownSite)
        else:
            raise UnknownSite(f"{given!r} is no site: give a name such as 'resid_post' or a pair ('resid_post', 5)")
        if parse(name)[0] in self.lacks:
            raise UnknownSite(f"this model ({self.model_type}) has no site {name!r}: {self.lacks[name]}")
        if not SITES[name].layered:
            yield Site(name)
        elif layer is None:
            yield from (s for s in (Site(name, i) for i in range(self.n_layers)) if self.has(s))
        else:
            site = Site(name, self.layer(layer))
            if not self.has(site):
                raise UnknownSite(f"layer {site.layer} of this model ({self.model_type}) has no site {name!r}")
            yield site

    def layer(self, index: int) -> int:
        """A layer index, negative ones counted from the end, refused where out of range."""
        if not -self.n_layers <= index < self.n_layers:
            raise UnknownSite(f"layer {index} is out of range: this model has layers 0 to {self.n_layers - 1}")
        return index % self.n_layers

    def module_at(self, site: Site) -> nn.Module:
        """The module that a site named by a path belongs to."""
        return self.hf.get_submodule(site.name.rpartition(".")[0])

    def _module_site(self, path: str) -> Site:
        """A module's input or output; its layer is the one that the module is part of."""
        name = path.rpartition(".")[0]
        try:
            module = self.hf.get_submodule(name)
        except AttributeError:
            names = [known for known, _ in self.hf.named_modules() if known]
            raise UnknownSite(f"this model has no module {name!r}. {did_you_mean(name, names)}") from None
        inside = (i for i, p in enumerate(self.layers) if any(part is module for part in p.layer.modules()))
        return Site(path, next(inside, None))

    def _from_hook(self, text: str) -> tuple[str, int | None]:
        """A site by its own name, or by TransformerLens's where that means the same values on this model."""
        rotated = text.replace("hook_rot_", "hook_")
        name, layer = parse(rotated)
        if rotated != text and not self.rotates:
            raise UnknownSite(
                f"{text!r}: this model ({self.model_type}) does not rotate queries and keys: say {name!r}"
            )
        if text.endswith(("attn.hook_q", "attn.hook_k")) and self.rotates:
            raise UnknownSite(
                f"{text!r} means {name} before its rotation, and this model's {name!r} is after it: say {name!r}, or "
                f"{text.replace('hook_', 'hook_rot_')!r}, for the rotated one; before it there is no site, but the "
                "projection's output by the path of its module"
            )
        if text.endswith("hook_normalized") and self._has_norm_weight(name, layer):
            raise UnknownSite(
                f"{text!r} means the stream before the norm's weight, and this model's {name!r} is after it: say "
                f"{name!r} for what the branch receives, or divide the norm's input by {name + '.scale'!r}"
            )
        if text.endswith("mlp.hook_pre") and layer is not None:
            p = self.layers[self.layer(layer)]
            name = "mlp_gate" if p.w_gate or p.gate_up else name
        return name, layer

    @cached_property
    def rotates(self) -> bool:
        """Whether queries and keys are rotated by position before attention."""
        return any("rotary" in type(m).__name__.lower() or hasattr(m, "rotary_dim") for m in self.hf.modules())

    def _has_norm_weight(self, name: str, layer: int | None) -> bool:
        at = None if layer is None else self.layers[self.layer(layer)]
        norm = self.final_norm if at is None else at.attn_norm if name == "attn_norm" else at.mlp_norm
        return getattr(norm, "weight", None) is not None

    @cached_property
    def _paths(self) -> dict[str, tuple[str, int | None]]:
        """Hugging Face module paths whose output is a site."""
        names = {id(module): name for name, module in self.hf.named_modules()}
        table: dict[int, tuple[str, int | None]] = {}
        if self.logit_scale == 1.0 and self.logit_softcap is None:
            table[id(self.unembed)] = ("logits", None)
        if self.embed_scale == 1.0:
            table[id(self.embed_whole or self.embed_norm or self.embed_project or self.embed)] = ("embed", None)
        if self.final_norm is not None:
            table[id(self.final_norm)] = ("final_norm", None)
        for i, p in enumerate(self.layers):
            table[id(p.layer)] = ("resid_post", i)
            if self.residual_scale == 1.0:
                adds = self.family.mlp_adds_residual
                table[id(p.attn_post_norm or (p.o if adds else p.attn))] = ("attn_out", i)
                mlp = p.mlp_post_norm or (p.w_out if adds else p.mlp)
                if mlp is not None and p.mlp_beside is None and not self.family.mlp_overwritten:
                    table[id(mlp)] = ("mlp_out", i)
        return {names[key]: site for key, site in table.items() if key in names}

    def module_path(self, site: Site) -> str | None:
        """The Hugging Face module whose output the site is, if there is one."""
        return next((path for path, value in self._paths.items() if value == tuple(site)), None)

    @cached_property
    def norms(self) -> Norms:
        """Each norm of the stream, by its module, read off the module as it now is."""
        modules = [self.final_norm]
        for p in self.layers:
            modules += [p.attn_norm, p.mlp_norm, p.attn_post_norm, p.mlp_post_norm]
        return Norms([module for module in modules if module is not None], self.d_model, self.device)

    @property
    def modules(self) -> list[nn.Module]:
        """All modules of the model, without the walk through it that ``hf.modules()`` is."""
        return [module for module, _ in self._modules]

    def expect_unchanged(self) -> None:
        """Refuse a model whose modules are not those that it was loaded with; their weights may change.

        Raises
        ------
        AnatomyError
            Naming a module that is new, gone or another one.
        """
        for module, children in self._modules:
            if module._modules != children:
                name = next(name for name, part in self.hf.named_modules() if part is module)
                other = [k for k in {**module._modules, **children} if module._modules.get(k) is not children.get(k)]
                raise AnatomyError(
                    f"the model has changed since it was loaded, at {'.'.join([*filter(None, [name]), other[0]])!r}: "
                    "load it again with cb.load(model)"
                )

    @property
    def d_logits(self) -> int:
        """Entries of the logits, read off the unembedding as it now is."""
        return int(weight_shape(self.unembed)[1])

    @property
    def d_vocab(self) -> int:
        """How many tokens there are."""
        return self.d_logits if self.classes is None else int(weight_shape(self.embed)[1])
