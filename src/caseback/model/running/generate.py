"""Generating under edits: they hold during cached decoding, by absolute position.

Each forward pass of ``transformers``' own ``generate`` brings a few new columns; before the pass the session learns
which, so an edit of position 3 acts in the prompt's pass, and one of position 40 when token 40 comes. Keys and values
are edited as they enter attention, at every step, since the cache holds them unedited. Several continuations of one
prompt share its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from caseback.errors import SiteAbsent, TokensError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.context import stretched_after
from caseback.model.anatomy.legacy import CACHE_NAMES
from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, step_frame
from caseback.model.running.passing import Hooks, aside, hooked, undisturbed
from caseback.model.running.run import Run, execute, resolve, sites_read, with_clean
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens, expect_unstretched, piece
from caseback.model.running.undo import as_found
from caseback.model.running.wiring import wired

LOGITS = Site("logits")


class _Decoding(Session):
    """A session that follows the decoding: which columns pass, and which keys attention still sees."""

    prompts: Tokens
    past = width = rows = 0
    beside = False  # attention computed a second time would put its keys into the cache twice

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.passed: dict[Site, list[Tensor]] = {}

    def step(self, rows: int, past: int, width: int) -> None:
        self.collect()
        if past == 0:
            self.passed = {}  # without a cache every pass is over the whole text
        self.rows, self.past, self.width, self.key_start = rows, past, width, 0
        self.lead, self.frame = (rows, width), step_frame(self.prompts, rows, past, width)

    def collect(self) -> None:
        """Append what the last pass read to what earlier ones did."""
        for site, x in self.acts.items():
            if site.base.name in ("k", "v"):
                x = x[:, -self.width :]  # attention gets those in the cache too
            self.passed.setdefault(site, []).append(x)
        self.acts = {}

    def _all_keys(self, site: Site, x: Tensor) -> Tensor:
        """A map's rows with all keys so far, also those that a sliding window has dropped."""
        nothing = torch.finfo(x.dtype).min if site.name == "scores" else 0.0
        return nn.functional.pad(x, (self.key_start, 0), value=nothing)

    def read_so_far(self) -> dict[Site, Tensor]:
        """What was read at every position that has passed, (batch, pos, ...); maps (batch, head, query, key)."""
        self.collect()
        return {site: _joined(site, parts) for site, parts in self.passed.items()}

    def layout(self, width: int, keys: bool) -> Frame:
        if not keys:
            return self.frame
        return step_frame(self.prompts, self.rows, self.key_start, width)

    def attend(self, layer, module, q, k, v, mask, **how) -> Tensor:
        self.key_start = max(self.past + self.width - k.shape[2], 0)
        z = super().attend(layer, module, q, k, v, mask, **how)
        for site in (Site(name, layer) for name in MAPS):
            if site in self.acts:  # here, since how much of the past is kept may differ from layer to layer
                self.acts[site] = self._all_keys(site, self.acts[site])
        return z

    def at_logits(self, logits: Tensor) -> Tensor:
        count = logits.shape[1]
        self.frame = step_frame(self.prompts, self.rows, self.past + self.width - count, count)
        return self.touch(LOGITS, logits)


def _joined(site: Site, parts: list[Tensor]) -> Tensor:
    if site.name not in MAPS:
        return torch.cat(parts, 1)
    width = sum(x.shape[2] for x in parts)  # of some caches more columns are laid out than have passed
    nothing = torch.finfo(parts[0].dtype).min if site.name == "scores" else 0.0
    return torch.cat([nn.functional.pad(x, (0, width - x.shape[-1]), value=nothing) for x in parts], 2)


_OF_ROWS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


class SharedPrompts:
    """Hooks around the model's own forward that make the first pass over each prompt once.

        rows of the first pass = prompts,    of every later one = prompts x k,  prompt after prompt

    transformers repeats each prompt for each of its continuations (samples, beams) before the first pass, in which
    these rows are the same. What stands behind that pass, logits, cache and what was read, is repeated instead.
    """

    def __init__(self, prompts: int, session: Session):
        self.prompts, self.session = prompts, session
        self.first, self.per, self.cache = True, 1, None

    def narrow(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """One row of each prompt, in the first pass alone and where all that it is given can be divided like that."""
        first, self.first = self.first, False
        ids = kwargs.get("input_ids")
        if not first or args or not isinstance(ids, Tensor) or len(ids) <= self.prompts:
            return None
        cache = next((kwargs[name] for name in CACHE_NAMES & kwargs.keys() if kwargs[name] is not None), None)
        if not _repeatable(cache) or not all(_divides(name, value, len(ids)) for name, value in kwargs.items()):
            return None
        self.per, self.cache = len(ids) // self.prompts, cache
        return args, {
            name: value[:: self.per] if name in _OF_ROWS and value is not None else value
            for name, value in kwargs.items()
        }

    def widen(self, _: nn.Module, args: tuple, output: Any) -> None:
        """What stands behind the first pass, for every continuation."""
        if self.cache is None:
            return
        repeated: Callable[[Tensor], Tensor] = lambda x: x.repeat_interleave(self.per, 0)  # noqa: E731
        self.cache.batch_repeat_interleave(self.per)
        output.logits = repeated(output.logits)
        self.session.acts = {site: repeated(x) for site, x in self.session.acts.items()}
        self.cache = None


def _repeatable(cache: Any) -> bool:
    """Whether a cache holds keys and values alone, none yet, and where they are repeated without a copy elsewhere."""
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False) or cache.get_seq_length():
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _divides(name: str, value: Any, rows: int) -> bool:
    if name in _OF_ROWS:
        return value is None or isinstance(value, Tensor) and value.ndim == 2 and len(value) == rows
    return not isinstance(value, dict) and not (isinstance(value, Tensor) and value.ndim > 1)


@as_found
def generate(
    anatomy: Anatomy,
    tokens: Tokens,
    tokenizer: Any,
    *,
    read: Sequence[Any] = (),
    edits: Edit | Sequence[Edit] = (),
    max_new_tokens: int = 20,
    seed: int | None = None,
    watch: Callable[[Hooks], None] | None = None,
    **options: Any,
) -> tuple[Tokens, Run]:
    """Generate under edits, and read sites on the way; see ``Model.generate``. ``watch`` puts on hooks of its own."""
    hf = anatomy.hf
    expect_tokens_out(anatomy, "generating")
    _expect_options(options)
    _expect_room(anatomy, tokens, max_new_tokens)
    reads = sites_read(anatomy, read)
    if LOGITS in reads:
        raise SiteAbsent("decoding forms logits of the last position alone: run the whole text to read 'logits'")
    if reads and options.get("num_beams", 1) != 1:
        raise SiteAbsent(f"num_beams={options['num_beams']} reorders its rows on the way: nothing can be read in it")
    resolved = resolve(edits, anatomy, tokens, open_end=True)
    resolved = with_clean(resolved, lambda sites: execute(anatomy, tokens, read=sites))
    pad = _pad_id(hf, tokenizer, options, anatomy.d_vocab)
    tokens = tokens.padded_on("left", pad)
    session = _Decoding(
        anatomy,
        Frame([], []),
        (0, 0),
        reads=reads,
        edits=resolved,
        columns_before=[at for at, _ in tokens.extents],
        standing_at=lambda site: True,
    )
    session.prompts = tokens
    if tokens.padded and hf.dtype == torch.float64:
        execute(anatomy, tokens, read=[Site("resid_post", anatomy.n_layers - 1)], logits=False)  # refuses NaN

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
        stack.enter_context(undisturbed(anatomy, grad=False))
        hooks = stack.enter_context(hooked())
        if (shared := SharedPrompts(len(tokens), session) if watch is None else None) is not None:
            hooks.before(hf, shared.narrow)
        hooks.before(hf, before)
        if session.wants(LOGITS):
            hooks.after(hf, after)
        if shared is not None:
            hooks.after(hf, shared.widen)
        stack.enter_context(wired(session))
        if watch is not None:  # behind the edits, which it is to see
            watch(hooks)
        options = _users_aside({"do_sample": False, **options})
        stops = _Stops(options, tokenizer)
        with _refusals_of_transformers():
            ids = hf.generate(
                input_ids=tokens.ids,
                attention_mask=tokens.mask.long(),
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                return_dict_in_generate=False,
                **options,
            )
    session.finish()
    whole = _whole(ids, tokens, _end_tokens(hf, options), stops.after, tokenizer)
    passed = whole.mask[:, :-1]  # the last token is never put into the model
    text = [row[:n] for row, n in zip(whole.text, passed.sum(-1).tolist(), strict=True)]
    seen = Tokens(whole.ids[:, :-1], passed, text)
    return whole, Run(anatomy, seen, session.read_so_far(), None, edited=bool(resolved or anatomy.standing))


@contextmanager
def _refusals_of_transformers() -> Iterator[None]:
    """What transformers says of an option that neither it nor the model knows, as a refusal of ours."""
    try:
        yield
    except ValueError as error:
        if "`model_kwargs` are not used" not in str(error):
            raise
        raise TokensError(f"generate: {error}") from None


_OF_PROMPTS = ("input_ids", "inputs", "inputs_embeds", "attention_mask", "position_ids", "past_key_values")
_OF_OUTPUT = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")


def _expect_options(options: dict[str, Any]) -> None:
    """Refuse options of transformers' generate that decoding sets by itself, or whose answer it would throw away."""
    for name in _OF_PROMPTS:
        if options.get(name) is not None:
            raise TokensError(f"{name}= is set from the prompts: give Tokens, or what a tokenizer returned, as prompts")
        options.pop(name, None)
    for name in _OF_OUTPUT:
        if options.pop(name, None):
            raise SiteAbsent(
                f"{name}=True: generating returns Tokens; read=['pattern'] gives what was computed on the way, and a "
                "run of these Tokens the logits"
            )


def _expect_room(anatomy: Anatomy, tokens: Tokens, max_new_tokens: int) -> None:
    """Refuse a text that would outgrow the context; the last token is never put into the model."""
    if max_new_tokens < 1:
        raise TokensError(f"max_new_tokens={max_new_tokens}: expected at least 1")
    longest = int(tokens.lengths.max())
    if anatomy.context is not None and longest + max_new_tokens - 1 > anatomy.context:
        raise TokensError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens}: the model's context is "
            f"{anatomy.context}, so at most {anatomy.context - longest + 1} can be added"
        )
    expect_unstretched(tokens, stretched_after(anatomy.config), growth=max_new_tokens - 1)


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


def _users_aside(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the caller's own functions called outside the pass: a model that they run is the plain one."""

    def outside(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with aside():
                return function(*args, **kwargs)

        return called

    theirs = options.get("logits_processor") or ()
    library = [type(processor).__module__.startswith("transformers.") for processor in theirs]
    changed: dict[str, Any] = {}
    if theirs:
        kept_apart = [p if known else outside(p) for p, known in zip(theirs, library, strict=True)]
        changed["logits_processor"] = LogitsProcessorList(kept_apart)  # pyright: ignore[reportArgumentType]
    if options.get("prefix_allowed_tokens_fn") is not None:
        changed["prefix_allowed_tokens_fn"] = outside(options["prefix_allowed_tokens_fn"])
    return {**options, **changed}


class _Stops(StoppingCriteria):
    """Where a caller's own criteria end each row: transformers fills up what follows with padding, or goes on writing.

    All of them, ``stop_strings`` included, are taken out of ``options`` and asked through this one, which goes in.
    """

    def __init__(self, options: dict[str, Any], tokenizer: Any):
        self.criteria: list[Any] = list(options.pop("stopping_criteria", None) or ())
        strings = options.pop("stop_strings", None)
        if strings is not None:
            if tokenizer is None:
                raise TokensError("stop_strings need a tokenizer: load the model with tokenizer=")
            try:
                self.criteria.append(StopStringCriteria(tokenizer, strings))
            except ValueError:
                raise TokensError(
                    f"stop_strings={strings!r}: expected text that this tokenizer's tokens make"
                ) from None
        self.after: Tensor | None = None
        """(row,) the column behind each row's last token, 0 where none of the criteria ended it."""
        if self.criteria:
            options["stopping_criteria"] = StoppingCriteriaList([self])

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for criterion in self.criteria:
            with aside():
                says = criterion(input_ids, scores, **options)
            ended = ended | torch.as_tensor(says, device=input_ids.device)
        if self.after is None or len(self.after) != len(ended):
            self.after = torch.zeros_like(ended, dtype=torch.long)
        self.after = torch.where(ended & (self.after == 0), input_ids.shape[1], self.after)
        return ended


def _end_tokens(hf: Any, options: dict[str, Any]) -> list[int]:
    """The tokens that end a text: the call's, or else the model's."""
    config = options.get("generation_config") or hf.generation_config
    ends = options.get("eos_token_id", config.eos_token_id)
    return [] if ends is None else torch.as_tensor(ends).view(-1).tolist()


def _whole(ids: Tensor, tokens: Tokens, ends: list[int], after: Tensor | None, tokenizer: Any) -> Tokens:
    """Prompts with their continuations; what follows an end-of-text token, or where a criterion stopped, is padding."""
    per, width = len(ids) // len(tokens), tokens.ids.shape[1]
    ended = torch.isin(ids[:, width:], torch.tensor(ends, device=ids.device)).int().cumsum(-1)
    alive = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], -1) == 0
    if after is not None and len(after) == len(ids):  # beams reorder their rows: transformers cuts those itself
        columns = torch.arange(width, ids.shape[1], device=ids.device)
        alive &= (after == 0)[:, None] | (columns < after[:, None])
    mask = torch.cat([tokens.mask.repeat_interleave(per, 0), alive], -1)
    text = [[piece(tokenizer, int(t)) for t in row[keep]] for row, keep in zip(ids, mask, strict=True)]
    return Tokens(ids, mask, text)
