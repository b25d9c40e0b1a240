"""One forward pass of the model as it is: read sites, edit sites, differentiate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError, ResultError, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.context import first_position
from caseback.model.anatomy.dense import Projection
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.backward.rules import Rules, ruled
from caseback.model.display import Displayed
from caseback.model.running.edits import Edit, check, listed
from caseback.model.running.frames import batch_frame
from caseback.model.running.metrics import Metric
from caseback.model.running.passing import ended, no_rows, passing, undisturbed
from caseback.model.running.session import Session, pulled_through_view
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.user_hooks import drop_output_hooks
from caseback.model.running.wiring import wired
from caseback.model.sweeping.shared_passes import held_of

_DERIVED = {"q_in": "q", "k_in": "k", "v_in": "v"}


class Run(Displayed):
    """What a forward pass left: the logits and the sites that were asked for.

    Index it with a site's name for all layers stacked, ``run["z"]`` (layer, batch, pos, head, d_head), or with a
    layer, ``run["z", 5]``. Values are torch tensors on the model's device, those of padding included. ``edited`` says
    whether any edit was made.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokens: Tokens,
        acts: dict[Site, Tensor],
        logits: Float[Tensor, "batch pos vocab"] | None,
        *,
        raw: dict[Site, Tensor] | None = None,
        edited: bool = False,
        rules: Rules | None = None,
    ):
        self.edited, self.rules = edited, rules
        self.anatomy, self.tokens, self._acts, self._logits, self._raw = anatomy, tokens, acts, logits, raw or {}

    def __repr__(self) -> str:
        names = list(dict.fromkeys(site.name for site in self._acts))
        read = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
        edited = ", edited" if self.edited else ""
        return f"Run({len(self.tokens)} prompts of {self.tokens.shape[1]} tokens, {read or 'no site'} read{edited})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied and sent without its graph; the anatomy is found again in the model's copy.
        anatomy, run = self.anatomy, self.detached()
        drop_output_hooks(anatomy.hf)
        held = run.tokens, run._acts, run._logits, run.edited
        return _found_again, (anatomy.hf, anatomy.tokenizer, anatomy.standing, *held)

    @property
    def logits(self) -> Float[Tensor, "batch pos vocab"]:
        """Logits as the model returns them; those of classes at every position, a prompt's last being its own."""
        if self._logits is None:
            raise SiteAbsent("this run kept no logits")
        return self._logits

    def fingerprint_parts(self) -> dict[str, Any]:
        """The prompts and what was read, for ``jobs.fingerprint``."""
        return {"tokens": self.tokens, "sites": {str(site): value for site, value in self._acts.items()}}

    @property
    def sites(self) -> list[Site]:
        """The sites that this run holds."""
        return list(self._acts)

    def __contains__(self, key: Any) -> bool:
        return all(site in self._acts for site in self.anatomy.sites(key))

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, tuple) and len(key) == 2 and key[1] is None:
            key = key[0]
        wanted = list(self.anatomy.sites(key))
        missing = [site for site in wanted if site not in self._acts]
        if missing:
            held = ", ".join(sorted({s.name for s in self._acts})) or "none"
            raise SiteAbsent(f"this run did not read {missing[0]}: pass read=[{missing[0].name!r}] (it holds: {held})")
        if len(wanted) == 1 and (wanted[0].layer is None or not isinstance(key, str) or "." in key):
            return self._acts[wanted[0]].to(self.anatomy.device)
        return torch.stack([self._acts[site].to(self.anatomy.device) for site in wanted])

    def detached(self) -> Run:
        """The same values without their graph, which is then free to go."""
        acts = {site: x.detach() for site, x in self._acts.items()}
        logits = None if self._logits is None else self._logits.detach()
        return Run(self.anatomy, self.tokens, acts, logits, edited=self.edited)

    @checked
    def grad(
        self,
        metric: Metric | Callable[[Tensor], Tensor] | Tensor,
        sites: Sequence[Any],
        *,
        retain: bool = True,
        pull: bool = True,
    ) -> Run:
        """Gradients of a metric at sites that this run read.

        Parameters
        ----------
        metric
            A metric, a function of the logits that gives one number per prompt, or such numbers already computed from
            this run. Prompts do not mix, so one backward pass serves the whole batch.
        sites
            Sites that were read in a run with ``grad=True``.
        retain
            Keep the graph for another call.
        pull
            Pull gradients at ``q_in``, ``k_in`` and ``v_in`` back to these inputs. If not, the gradients are those at
            the projections' outputs, a fraction of the size, and ``pulled`` pulls back some at a time.

        Returns
        -------
        A ``Run``, indexed in the same way, whose values are gradients.
        """
        wanted = [site for given in sites for site in self.anatomy.sites(given)]
        with torch.enable_grad():  # whoever calls under torch.no_grad wants gradients here all the same
            values = metric if isinstance(metric, Tensor) else self._value(metric)
            total = values.sum()
        if not values.requires_grad:
            raise SiteAbsent("this run has no gradients: run with grad=True")
        at = [self._anchor(site) for site in wanted]
        # What the rules hold constant (a pattern, experts' weights) has no gradient: nothing goes on to it.
        live = at if self.rules is None else [anchor for anchor in at if anchor.requires_grad]
        grads = torch.autograd.grad(total, live, retain_graph=retain, allow_unused=True) if live else ()
        by_anchor = {id(anchor): g for anchor, g in zip(live, grads, strict=True) if g is not None}
        gradients = {}
        for site, anchor in zip(wanted, at, strict=True):
            g = by_anchor.get(id(anchor))
            g = torch.zeros_like(anchor) if g is None else g
            gradients[site] = self._expand(site, g) if pull or site.name not in _DERIVED else g
        return Run(self.anatomy, self.tokens, gradients, None)

    def _value(self, metric: Metric | Callable[[Tensor], Tensor]) -> Tensor:
        return metric(self) if isinstance(metric, Metric) else metric(self.logits)

    def _anchor(self, site: Site) -> Tensor:
        """The tensor on the path of the computation that a site's gradient comes from."""
        if site.name.endswith(".scale"):
            raise SiteAbsent(f"{site} is only looked at, so it has no gradient: ask for {site.name[:-6]!r}")
        if site.name == "head_out":
            return self._acts[Site("attn_out", site.layer)]
        if site.kind.view:
            return self._anchor(site.written)
        source = self._raw if site in self._raw else self._acts
        if site == Site("logits"):
            return self.logits
        if site not in source:
            raise SiteAbsent(f"this run did not read {site} with grad=True")
        return source[site]

    def _expand(self, site: Site, g: Tensor) -> Tensor:
        """A gradient at a computed site from the gradient at its anchor.

        A head's own input moves only that head's rows of the projection: pull those rows back through W and the
        norm. Heads' writes are added, so each has the gradient of their sum.
        """
        if site.kind.view:
            return self._through_codec(site, self._expand(site.written, g))
        if site.layer is None or site.name not in (*_DERIVED, "head_out"):
            return g.view_as(self._acts[site]) if site in self._raw else g
        if site.name == "head_out":
            return g.unsqueeze(2).expand(-1, -1, self.anatomy.layers[site.layer].dims.n_heads, -1)
        return self.pulled(site, g)

    def _through_codec(self, site: Site, g: Tensor) -> Tensor:
        """A gradient at a registered site from that at its base, by way of how the base is written from it.

        The site stays off the path, so reading it changes no other gradient; what its codec cannot write is constant.
        """
        return pulled_through_view(site, g, self._acts[site], self._acts[site.base])

    @checked
    @as_found
    def pulled(
        self, site: Site, g: Float[Tensor, "batch pos width"], part: tuple[slice, slice] = (slice(None), slice(None))
    ) -> Float[Tensor, "batch pos head d_model"]:
        """A gradient at heads' own inputs from that at the output of their projection.

        It goes back through W and the norm; where all heads read one stream, nothing of the stream is copied.
        ``part`` limits it to some prompts and columns.
        """
        if site.layer is None or site.name not in _DERIVED:
            raise SiteAbsent(f"{site} is no head's own input: expected one of {', '.join(_DERIVED)} with its layer")
        p = self.anatomy.layers[site.layer]
        projection: Projection = getattr(p, _DERIVED[site.name])
        batch = self.tokens.ids.shape
        if g.ndim < 3 or g.shape[:2] != batch or g.shape[2:].numel() < projection.width:
            raise ResultError(
                f"a gradient of shape {tuple(g.shape)}: expected (batch, pos, width), {tuple(batch)} first"
            )
        mine = projection.by_head(g.to(self._acts[site].device).view(*batch, -1)[part])
        read = torch.einsum("bphe,hde->bphd", mine, projection.weight().detach().to(mine))
        if p.attn_norm is None:
            return read
        x = self._acts[site][part].detach()
        if self.rules is not None:
            with passing(self.anatomy), torch.enable_grad(), ruled(self.anatomy, self.rules):
                x = x.contiguous().requires_grad_()
                out = p.attn_norm.forward(x)
            return torch.autograd.grad(out, x, read)[0]
        x = x if x.stride(2) else x[:, :, :1]  # a stride of 0: one stream, shown to every head
        return self.anatomy.norms[p.attn_norm].vjp(read, x).to(read)


def only_sites(run: Run, sites: Sequence[Site]) -> Run:
    """The same run with these sites alone, so that the others' values are free to go."""
    return Run(run.anatomy, run.tokens, {site: run._acts[site] for site in sites}, None, edited=run.edited)


def inputs_of(tokens: Tokens, hf: nn.Module) -> dict[str, Tensor]:
    """What the model is called with. Without padding only the ids, as a user would call it."""
    given = {"input_ids": tokens.ids}
    if tokens.padded:
        given["attention_mask"] = tokens.mask.long()
        if takes_positions(hf):
            given["position_ids"] = tokens.position_ids + first_position(hf.config)
    return given


def expect_numbers_at(tokens: Tokens, hf: Any, *values: Tensor) -> None:
    """Refuse NaN at prompts' own tokens, which transformers' eager attention makes of padding in float64.

    Its softmax is in float32, where float64's most negative number, put wherever a token may not look, is minus
    infinity: a padded row that may look nowhere becomes NaN, and every row that gives it the weight 0 with it.

    Raises
    ------
    CasebackError
    """
    if hf.dtype != torch.float64 or not tokens.padded:
        return
    for x in values:
        if x.shape[:2] == tokens.shape and bool(x[tokens.mask.to(x.device)].isnan().any()):
            raise CasebackError(
                "transformers' eager attention makes padding NaN in float64, and the prompts with it: load the model "
                "with attn_implementation='sdpa' or in float32, or run prompts of one length at a time"
            )


def takes_positions(hf: nn.Module) -> bool:
    """Whether a model's forward takes ``position_ids``, which a class that only wraps it may not say."""
    forwards = [hf.forward, *(vars(kind)["forward"] for kind in type(hf).__mro__ if "forward" in vars(kind))]
    for forward in forwards:
        parameters = inspect.signature(forward).parameters
        if "position_ids" in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def resolve(
    edits: Edit | Sequence[Edit], anatomy: Anatomy, tokens: Tokens, *, owner: int = 0, open_end: bool = False
) -> list[tuple[int, Site, Edit]]:
    """Edits as (owner, site, edit), checked against the model and the prompts."""
    return [(owner, *placed) for edit in listed(edits) for placed in check(edit, anatomy, tokens, open_end=open_end)]


def with_clean(
    resolved: Sequence[tuple[int, Site, Edit]], clean: Callable[[list[Site]], Run]
) -> list[tuple[int, Site, Edit]]:
    """Give the unedited run to the edits that refer to it; one pass serves all of them."""
    need = {site for _, site, edit in resolved if edit.awaits_clean}
    if not need:
        return list(resolved)
    run = clean(sorted(need, key=str))
    return [(owner, site, edit.with_clean(run) if edit.awaits_clean else edit) for owner, site, edit in resolved]


def each_site(read: Any) -> list[Any]:
    """Sites as a list, even where only one is given, by name or as a pair with its layer."""
    pair = isinstance(read, tuple) and len(read) == 2 and isinstance(read[0], str) and not isinstance(read[1], str)
    return [read] if isinstance(read, str) or pair else list(read)


def sites_read(anatomy: Anatomy, read: Any) -> list[Site]:
    """The sites that are asked for, in whatever form."""
    return [site for given in each_site(read) for site in anatomy.sites(given)]


def _found_again(hf: Any, tokenizer: Any, standing: Any, tokens: Tokens, acts: Any, logits: Any, edited: bool) -> Run:
    return Run(assembled(hf, tokenizer, standing), tokens, acts, logits, edited=edited)


@as_found
def execute(
    anatomy: Anatomy,
    tokens: Tokens,
    *,
    read: Sequence[Any] = (),
    edits: Edit | Sequence[Edit] = (),
    grad: bool = False,
    logits: bool = True,
    rules: Rules | None = None,
) -> Run:
    """Run the model once; see ``Model.run``. Without ``logits`` the run has none, and later layers are not called.

    With ``rules`` gradients are those of the rules: activation times gradient is then relevance.
    """
    hf = anatomy.hf
    reads = sites_read(anatomy, read)
    resolved = resolve(edits, anatomy, tokens)
    held = None if resolved or grad or rules else held_of(anatomy, tokens)
    if held is not None and (held.logits is not None or not logits) and all(site in held.acts for site in reads):
        return Run(anatomy, tokens, {site: held.acts[site] for site in reads}, held.logits if logits else None)
    resolved = with_clean(resolved, lambda sites: execute(anatomy, tokens, read=sites))
    logits_site = Site("logits")
    extra = [s for site in reads for s in (_anchored_at(site), site.base)] if grad else []
    session = Session(
        anatomy,
        batch_frame(tokens),
        tokens.shape,
        reads=[s for s in (*reads, *extra) if s != logits_site],
        edits=[item for item in resolved if item[1] != logits_site],
        columns_before=[at for at, _ in tokens.extents],
        grad=grad,
    )
    head = nullcontext() if logits else no_rows(anatomy.unembed)
    end = nullcontext() if logits else ended(anatomy, _last_layer((*session.reads, *session.edits)))
    output = None
    with undisturbed(anatomy, grad=grad), ruled(anatomy, rules), end, wired(session), head:
        output = logits_of(hf, inputs_of(tokens, hf))
    session.finish()
    expect_numbers_at(tokens, hf, *(() if output is None else (output,)), *session.acts.values())
    ends = Session(
        anatomy,
        session.frame,
        session.lead,
        reads=[s for s in reads if s == logits_site],
        edits=[item for item in resolved if item[1] == logits_site],
        standing_at=lambda site: site == logits_site,
    )
    if ends.wants(logits_site) and output is not None:
        with torch.set_grad_enabled(grad):
            output = ends.touch(logits_site, output)
    acts = {**session.acts, **ends.acts}
    final = output if logits else None
    if held is not None:
        held.add(acts, final)
    return Run(anatomy, tokens, acts, final, raw=session.raw, edited=bool(resolved or anatomy.standing), rules=rules)


def _last_layer(sites: Sequence[Site]) -> int | None:
    """The last layer that any of the sites needs, -1 for none; None where one of them stands behind the layers."""
    layers = [-1 if site.base.name in ("embed", "pos_embed") else site.layer for site in sites]
    return None if None in layers else max((layer for layer in layers if layer is not None), default=-1)


def _anchored_at(site: Site) -> Site:
    """The site that a site's gradient comes from: itself, but where no module holds it."""
    return Site("attn_out", site.layer) if site.name == "head_out" else site.written
