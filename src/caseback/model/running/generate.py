"""Generating under edits: they hold during cached decoding, by absolute position.

Each forward of ``transformers``' own ``generate`` brings a few new columns; the session is told which before the pass,
so an edit of position 3 acts in the prompt's pass, and one of position 40 when token 40 comes. Keys and values are
edited as they enter attention, at every step, since the cache holds them as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from caseback.errors import TokensError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.legacy import CACHE_NAMES
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, step_frame
from caseback.model.running.run import execute, resolve, undisturbed, with_clean
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens, piece
from caseback.model.running.wiring import wired

LOGITS = Site("logits")


class _Decoding(Session):
    """A session that follows the decoding: which columns pass, and which keys attention still sees."""

    prompts: Tokens
    past = width = rows = 0

    def step(self, rows: int, past: int, width: int) -> None:
        self.rows, self.past, self.width, self.key_start = rows, past, width, 0
        self.lead, self.frame = (rows, width), step_frame(self.prompts, rows, past, width)

    def layout(self, width: int, keys: bool) -> Frame:
        if not keys:
            return self.frame
        return step_frame(self.prompts, self.rows, self.key_start, width)

    def attend(self, layer, module, q, k, v, mask, **how) -> Tensor:
        self.key_start = max(self.past + self.width - k.shape[2], 0)
        return super().attend(layer, module, q, k, v, mask, **how)

    def at_logits(self, logits: Tensor) -> Tensor:
        kept = logits.shape[1]
        self.frame = step_frame(self.prompts, self.rows, self.past + self.width - kept, kept)
        return self.touch(LOGITS, logits)


def generate(
    anatomy: Anatomy,
    tokens: Tokens,
    tokenizer: Any,
    *,
    edits: Edit | Sequence[Edit] = (),
    max_new_tokens: int = 20,
    seed: int | None = None,
    **options: Any,
) -> Tokens:
    """Generate under edits; see ``Model.generate``."""
    hf = anatomy.hf
    if max_new_tokens < 1:
        raise TokensError(f"max_new_tokens={max_new_tokens}: expected at least 1")
    resolved = resolve(edits, anatomy, tokens, open_end=True)
    resolved = with_clean(resolved, lambda sites: execute(anatomy, tokens, read=sites))
    pad = _pad_id(hf, tokenizer, options, anatomy.d_vocab)
    tokens = tokens.padded_on("left", pad)
    session = _Decoding(
        anatomy,
        Frame([], []),
        (0, 0),
        edits=resolved,
        columns_before=tokens.first.cpu(),
        standing_at=lambda site: True,
    )
    session.prompts = tokens

    def before(_, args, kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        cache = next((kwargs[name] for name in CACHE_NAMES & kwargs.keys() if kwargs[name] is not None), None)
        session.step(ids.shape[0], 0 if cache is None else int(cache.get_seq_length()), ids.shape[1])

    def after(_, args, output):
        output.logits = session.at_logits(output.logits)

    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
            torch.manual_seed(seed)
        stack.enter_context(undisturbed(hf, grad=False))
        stack.callback(hf.register_forward_pre_hook(before, with_kwargs=True).remove)
        if session.wants(LOGITS):
            stack.callback(hf.register_forward_hook(after).remove)
        stack.enter_context(wired(session))
        options = {"do_sample": False, **options}
        ids = hf.generate(
            input_ids=tokens.ids,
            attention_mask=tokens.mask.long(),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            return_dict_in_generate=False,
            **options,
        )
    session.finish()
    return _whole(ids, tokens, hf, tokenizer)


def _pad_id(hf: Any, tokenizer: Any, options: dict[str, Any], d_vocab: int) -> int:
    for value in (
        options.pop("pad_token_id", None),
        getattr(tokenizer, "pad_token_id", None),
        hf.generation_config.pad_token_id,
        hf.generation_config.eos_token_id,
    ):
        value = value[0] if isinstance(value, list) else value
        if value is not None and 0 <= value < d_vocab:
            return int(value)
    return 0


def _whole(ids: Tensor, tokens: Tokens, hf: Any, tokenizer: Any) -> Tokens:
    """Prompts with their continuations; what follows an end-of-text token is padding."""
    per, width = len(ids) // len(tokens), tokens.ids.shape[1]
    ends = hf.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends, device=ids.device).view(-1)
    ended = torch.isin(ids[:, width:], ends).int().cumsum(-1)
    alive = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], -1) == 0
    mask = torch.cat([tokens.mask.repeat_interleave(per, 0), alive], -1)
    text = [[piece(tokenizer, int(t)) for t in row[keep]] for row, keep in zip(ids, mask, strict=True)]
    return Tokens(ids, mask, text)
