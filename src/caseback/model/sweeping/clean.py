"""The unedited run, recorded: what the variants of a sweep start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.parameters import device_of
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import attending
from caseback.model.running.edits import Edit
from caseback.model.running.frames import batch_frame
from caseback.model.running.passing import hooked
from caseback.model.running.run import expect_numbers_at, inputs_of
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens
from caseback.model.running.user_hooks import expect_no_user_hooks
from caseback.model.running.wiring import wired
from caseback.model.sweeping.reused_projections import Outputs, recorded_projections
from caseback.model.sweeping.shared_passes import held_of


@dataclass
class Clean:
    """What the unedited run leaves for the variants to start from.

    ``stream[l]`` (batch, pos, d_model) enters layer l, ``stream[n_layers]`` the final norm; ``k[l]``, ``v[l]``
    (batch, pos, kv_head, d_head) entered its attention and ``projected[l]`` are the outputs that they were made from;
    ``calls[l]`` is how the layer was called.
    """

    tokens: Tokens
    stream: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)
    calls: list[tuple[tuple, dict]] = field(default_factory=list)
    starts: dict[str, Tensor] = field(default_factory=dict)
    projected: list[Outputs] = field(default_factory=list)


def record(
    anatomy: Anatomy, tokens: Tokens, also: Sequence[Site] = (), given: Sequence[tuple[int, Site, Edit]] = ()
) -> Clean:
    """Run the model once and keep what a sweep needs (``also``: ``embed``, ``pos_embed`` where edited).

    ``given`` are edits of the embeddings that all variants share. The edits of an edited model are made too. Where
    passes of these prompts are shared, they are recorded once.
    """
    embed = [Site("embed")]
    held = held_of(anatomy, tokens) if not given and set(also) <= set(embed) else None
    if held is None:
        return _recorded(anatomy, tokens, also, given)
    if held.recorded is None:
        held.recorded = _recorded(anatomy, tokens, embed, ())
    return held.recorded


def _recorded(anatomy: Anatomy, tokens: Tokens, also: Sequence[Site], given: Sequence[tuple[int, Site, Edit]]) -> Clean:
    start = (anatomy.embed, anatomy.pos_embed, anatomy.embed_project, anatomy.embed_norm)
    expect_no_user_hooks(anatomy, "a sweep", called_plainly=start)
    clean = Clean(tokens)
    session = Session(
        anatomy,
        batch_frame(tokens),
        tokens.shape,
        reads=also,
        edits=given,
        columns_before=[at for at, _ in tokens.extents],
        standing_at=lambda site: site.name not in ("final_norm", "logits"),  # behind all that is recorded
    )

    def attend(layer: int, module: nn.Module, q, k, v, mask, **how):
        q, k, v = session.at_heads(layer, q, k, v)
        clean.k.append(k.transpose(1, 2).contiguous())
        clean.v.append(v.transpose(1, 2).contiguous())
        clean.masks.append(mask)
        clean.biases.append(how.get("position_bias"))
        return session.mixed(layer, module, q, k, v, mask, **how)

    def at_layer(_, args, kwargs):
        stream = args[0] if args else kwargs["hidden_states"]
        clean.stream.append(stream.to(device_of(anatomy.layers[len(clean.stream)].layer)))
        clean.calls.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))

    def at_last(_, args, output):
        clean.stream.append(output[0] if isinstance(output, tuple | list) else output)

    with hooked() as hooks:
        for p in anatomy.layers:
            hooks.before(p.layer, at_layer)
        hooks.on_input(anatomy.unembed, lambda x: x[:, -1:])
        with wired(session, attention=False), attending(anatomy, attend), recorded_projections(anatomy) as outputs:
            hooks.after(anatomy.layers[-1].layer, at_last)  # behind the hook that edits an edited model's stream there
            logits_of(anatomy.hf, inputs_of(tokens, anatomy.hf))
        clean.projected = outputs
    expect_numbers_at(tokens, anatomy.hf, clean.stream[-1])
    if len(clean.k) != anatomy.n_layers:
        raise SiteAbsent(
            f"attention of this model ({anatomy.model_type}) was seen {len(clean.k)} times in {anatomy.n_layers} "
            "layers: it cannot be swept"
        )
    clean.starts = {site.name: x for site, x in session.acts.items()}
    return clean
