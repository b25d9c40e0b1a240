"""``Model``: one Hugging Face decoder made legible."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from caseback.errors import EditError, OutOfRange, TokensError
from caseback.jobs.launch import HERE
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.coerce import as_integer
from caseback.model.anatomy.context import stretched_after
from caseback.model.anatomy.identity import identity_of
from caseback.model.arguments import checked
from caseback.model.backward.rules import Rules
from caseback.model.names_elsewhere import NamedElsewhere
from caseback.model.results import labelled
from caseback.model.running.answer_metrics import Answer, answer_ids
from caseback.model.running.edits import Edit, check, listed
from caseback.model.running.generate import generate
from caseback.model.running.metrics import Metric
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens, expect_unstretched, one_token, piece, tokenize
from caseback.model.running.user_hooks import drop_output_hooks
from caseback.model.sweeping.recheck import rechecked
from caseback.model.sweeping.sweep import sweep


class Model(NamedElsewhere):
    """A Hugging Face causal LM and its anatomy. Make one with ``cb.load``.

    Attributes
    ----------
    hf, tokenizer
        The objects themselves; caseback never changes them.
    anatomy
        Where the model's parts are.
    name
        As given to ``load``, for labels.
    """

    def __init__(self, hf: Any, tokenizer: Any, anatomy: Anatomy, name: str, declared: bool = True):
        self.hf, self.tokenizer, self.anatomy, self.name, self.declared = hf, tokenizer, anatomy, name, declared
        anatomy.tokenizer = tokenizer

    n_layers = property(lambda self: self.anatomy.n_layers)
    n_heads = property(lambda self: self.anatomy.n_heads)
    n_kv_heads = property(lambda self: self.anatomy.n_kv_heads)
    d_model = property(lambda self: self.anatomy.d_model)
    d_head = property(lambda self: self.anatomy.d_head)
    d_vocab = property(lambda self: self.anatomy.d_vocab)

    @property
    def device(self) -> torch.device:
        """Where prompts go."""
        return self.anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def context(self) -> int | None:
        """The longest prompt, where the model has one."""
        return self.anatomy.context

    @property
    def weights(self) -> Weights:
        """The model's matrices in the Primer's orientation (``x @ W``), per head, as views where they can be."""
        self.anatomy.expect_unchanged()
        return Weights(self.anatomy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied and pickled by its parts: the anatomy points into the model, and is found again in the copy.
        drop_output_hooks(self.hf)
        return _assembled, (self.hf, self.tokenizer, self.name, self.declared, self.anatomy.standing)

    def __repr__(self) -> str:
        return (
            f"<caseback Model {self.name!r}: {self.anatomy.model_type}, {self.n_layers} layers, {self.n_heads} heads, "
            f"d_model {self.d_model}, vocabulary {self.d_vocab}, "
            f"{self._classes}{str(self.dtype).removeprefix('torch.')}"
            f"{', under ' + self._standing() if self.anatomy.standing else ''}>"
        )

    @property
    def _classes(self) -> str:
        classes = self.anatomy.classes
        return "" if classes is None else f"{len(classes.names)} classes, "

    @checked
    def tokens(self, prompts: PromptsLike, *, padding: str = "right", bos: bool | None = None) -> Tokens:
        """Tokenize prompts for this model.

        Parameters
        ----------
        prompts
            Text or a list of texts, a list of ids or of lists, an id tensor (pos,) or (batch, pos).
        padding
            ``"right"`` or ``"left"``, where shorter prompts are padded. It never changes a result.
        bos
            Whether each text begins with a beginning-of-text token; None leaves special tokens to the tokenizer. A text
            that begins with it as it is written gets no second one.

        Raises
        ------
        TokensError
            For an empty prompt, an id out of the vocabulary, a prompt past the context, text without a tokenizer.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> tokens = model.tokens(["Mary went to the store", "Mary and John went to the store"])
        >>> (tokens.lengths[1] - tokens.lengths[0]).item()
        2
        """
        self.anatomy.expect_unchanged()
        tokens = tokenize(prompts, self.tokenizer, d_vocab=self.d_vocab, context=self.context, padding=padding, bos=bos)
        expect_unstretched(tokens, stretched_after(self.anatomy.config))
        return tokens if tokens.ids.device == tokens.mask.device == self.device else tokens.to(self.device)

    @checked
    def with_answer(self, prompts: PromptsLike, answer: Answer, *, bos: bool | None = None) -> Tokens:
        """Prompts that end with an answer, as ``cb.answer_log_prob`` wants them.

        The answer's tokens follow the prompt's: both are tokenized by themselves, so the prompt stays as it was.

        Parameters
        ----------
        prompts
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        answer
            Text, with its leading space, or token ids; one for all prompts or one per prompt.
        bos
            As for ``tokens``.

        Raises
        ------
        TokensError, TargetError

        Examples
        --------
        >>> import caseback as cb
        >>> cb.load("meadow").with_answer("Mary went to", " the store").text[0][-2:]
        [' the', ' store']
        """
        tokens = self.tokens(prompts, bos=bos)
        answers = answer_ids(answer, len(tokens), self.tokenizer, self.d_vocab)
        own = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
        return self.tokens([ids + more for ids, more in zip(own, answers, strict=True)])

    @checked
    def token_id(self, text: str | int, what: str = "target") -> int:
        """The id of a text that is exactly one token; of a classifier, the number of a class by its name.

        Raises
        ------
        TargetError
            Where it is several tokens; the message shows them.
        """
        return one_token(self.anatomy.classes or self.tokenizer, text, self.anatomy.d_logits, what)

    @checked
    def token_text(self, token: int | Int[Tensor, ""]) -> str:
        """A token's text, with its leading space."""
        number = as_integer(token, "token", TokensError, "a token's id")
        if not 0 <= number < self.d_vocab:
            raise OutOfRange(f"token {number} is outside the vocabulary: expected 0 to {self.d_vocab - 1}")
        return piece(self.tokenizer, number)

    @checked
    def edited(self, edits: Edit | Sequence[Edit]) -> Model:
        """The same model under edits that every pass of it starts with.

        It can be used wherever a model can; a decomposition that cannot follow an edit raises ``EditError``. The edits
        of a call come after the model's own. Nothing is copied, and this model stays as it is.

        Parameters
        ----------
        edits
            Interventions. One that refers to the unedited run (``Freeze``, ``Mean``) needs its run or values given.

        Returns
        -------
        A ``Model`` on the same weights; ``edited`` again adds to its edits.

        Raises
        ------
        UnknownSite, EditError, OutOfRange
            For an edit that does not fit the model, or one that waits for the unedited run.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> without = model.edited(cb.Zero("z", layer=1, head=2))
        >>> one = without.run("Mary and John").logits
        >>> two = model.run("Mary and John", edits=cb.Zero("z", layer=1, head=2)).logits
        >>> bool((one == two).all())
        True
        """
        wanted = listed(edits)
        waiting = next((edit for edit in wanted if isinstance(edit, Edit) and edit.awaits_clean), None)
        if waiting is not None:
            raise EditError(
                f"{waiting.describe()} refers to the unedited run of prompts that are not known yet: give it a run"
            )
        anatomy = copy.copy(self.anatomy)
        resolved = [pair for edit in wanted for pair in check(edit, anatomy, None)]
        anatomy.standing = (*self.anatomy.standing, *resolved)
        return Model(self.hf, self.tokenizer, anatomy, self.name, self.declared)

    @checked
    def run(
        self,
        tokens: PromptsLike,
        *,
        read: str | Sequence[Any] = (),
        edits: Edit | Sequence[Edit] = (),
        grad: bool = False,
        rules: Rules | None = None,
    ) -> Run:
        """Run the model once, reading and editing sites.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        read
            Sites to read: names (all layers), ``(name, layer)`` pairs, hook names or module paths.
        edits
            Interventions; see ``caseback.model.running.edits``.
        grad
            Keep the graph, so that ``run.grad(metric, sites)`` works. The parameters stay frozen.
        rules
            With ``grad``, the backward pass of relevance propagation in place of the gradient's; see
            ``caseback.model.backward.rules``. The forward pass stays as it is.

        Returns
        -------
        A ``Run`` with ``logits`` and the sites read. With no edit the logits are those of ``transformers`` to the
        bit, whatever is read.

        Raises
        ------
        UnknownSite, SiteAbsent, EditError, OutOfRange, TokensError

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> run = model.run("Mary and John went to the store", read=["resid_post", "pattern"])
        >>> run["resid_post"].shape[0] == model.n_layers, run["pattern", 0].shape[1] == model.n_heads
        (True, True)
        """
        return execute(self.anatomy, self.tokens(tokens), read=read, edits=edits, grad=grad, rules=rules)

    @checked
    def generate(
        self,
        tokens: PromptsLike,
        *,
        read: str | Sequence[Any] = (),
        edits: Edit | Sequence[Edit] = (),
        max_new_tokens: int = 20,
        seed: int | None = None,
        **options: Any,
    ) -> Any:
        """Continue prompts with ``transformers``' own ``generate``, under edits.

        An edit addresses absolute positions: those of the prompt act in its pass, later ones when their token comes,
        and a part left out (``pos=None``) grows with the text. Negative positions count from the prompt's end.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. A batch is padded on the left for decoding.
        read
            Sites to read on the way, as for ``run``; not the logits.
        edits
            Interventions; they hold with and without a cache.
        max_new_tokens
            The most tokens that are added.
        seed
            Same seed, same result: it draws the samples of ``do_sample=True``. Greedy decoding is the default.
        **options
            Passed on to ``generate``.

        Returns
        -------
        ``Tokens`` of prompts with continuations; ``model.text`` joins them. With ``read``, a pair of these and a
        ``Run`` with what the decoding itself computed, step by step, at all positions but the last, which no pass has
        seen.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> whole = model.generate("Mary and John went to", max_new_tokens=3)
        >>> model.text(whole)[0].startswith("Mary and John went to the")
        True
        """
        prompts = self.tokens(tokens)
        options |= {"max_new_tokens": max_new_tokens, "seed": seed}
        tokenizer = options.pop("tokenizer", None) or self.tokenizer
        whole, run = generate(self.anatomy, prompts, tokenizer, read=read, edits=edits, **options)
        return (whole, run) if run.sites else whole

    @checked
    def text(self, tokens: Tokens) -> list[str]:
        """Prompts as text, special tokens left out."""
        if self.tokenizer is None:
            return [" ".join(row) for row in tokens.text]
        rows = [ids[mask] for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    @checked
    def sweep(
        self,
        tokens: PromptsLike,
        variants: Sequence[Edit | Sequence[Edit]],
        metric: Metric,
        *,
        labels: Sequence[str] | None = None,
        token_budget: int | None = None,
        progress: bool = False,
        checkpoint: str | Path | None = None,
        folder: str | Path | None = None,
        workers: int = 1,
        on: str = HERE,
        threads: int | None = None,
        recheck: int | None = None,
    ) -> xr.DataArray:
        """Run many variants of edits and measure each: exact, and far cheaper than one pass per variant.

        What an edit cannot reach (earlier layers, earlier positions, positions after the one measured) is not
        computed again.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        variants
            Each a list of edits, or one edit.
        metric
            What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
        labels
            Names of the variants; by default their edits in words.
        token_budget
            The most token rows in one pass; it bounds the memory, whatever the number of variants. By default as many
            as half of what the devices have free holds: at most 2048 on a CPU, 8 GiB of them on an accelerator. A
            ``folder`` keeps the number that its sweep began with.
        progress
            Show a progress bar.
        checkpoint
            A file that keeps what is done; the same call with it goes on after an interruption.
        folder
            In place of a checkpoint a folder, in which several workers do shards of the variants. The same call goes
            on after an interruption, and joins from another process or machine that sees the folder.
        workers, on, threads
            Where a sweep in a folder runs, and the threads of each worker; see ``caseback.jobs.launch``.
        recheck
            Of a model in half precision, how many variants with the largest effects are measured again in float32, by
            a copy of the model twice as large; their effects there are the coordinate ``in_float32`` (variant, batch),
            NaN for the others. None: none.

        Returns
        -------
        DataArray (variant, batch) of the metric, with the unedited run's in the coordinate ``clean``. In half
        precision the attribute ``noise_floor`` is the most by which a variant that changes nothing, one in each pass,
        missed the unedited run: effects below it may be rounding.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> heads = [cb.Zero("z", layer=0, head=h) for h in range(model.n_heads)]
        >>> effects = model.sweep("Mary and John went to", heads, cb.logit(" the"))
        >>> effects.shape == (model.n_heads, 1)
        True
        """
        if recheck is not None and recheck < 1:
            raise OutOfRange(f"recheck={recheck}: expected at least 1 variant, or None")
        prompts = self.tokens(tokens)
        values, clean, names, noise = sweep(
            self.anatomy,
            prompts,
            variants,
            metric,
            labels=labels,
            token_budget=token_budget,
            progress=progress,
            checkpoint=checkpoint,
            folder=folder,
            workers=workers,
            on=on,
            threads=threads,
        )
        coords: dict[str, Any] = {"variant": names, "clean": ("batch", clean.cpu().double())}
        if recheck is not None and noise is not None:
            which, effects = rechecked(
                self.anatomy, prompts, variants, metric, values - clean, recheck, token_budget=token_budget
            )
            again = torch.full_like(values, torch.nan, dtype=torch.float64)
            coords["in_float32"] = (("variant", "batch"), again.index_copy(0, which, effects.to(again)))
        return labelled(
            values,
            ("variant", "batch"),
            coords,
            name=metric.name,
            model=self,
            target=None if metric.target is None else str(metric.target),
            foil=None if metric.foil is None else str(metric.foil),
            noise_floor=noise,
        )

    def fingerprint_parts(self) -> dict[str, Any]:
        """What makes it this model and not another, for ``jobs.fingerprint``."""
        return identity_of(self.hf, self.anatomy.standing)

    def provenance(self) -> dict[str, str]:
        """What a result says of the model that it came from."""
        config = self.anatomy.config
        return {
            "model": self.name,
            "revision": str(getattr(self.hf.config, "_commit_hash", None) or ""),
            "family": self.anatomy.model_type,
            "model_class": type(self.hf).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": str(config._attn_implementation),
            **({"edits": self._standing()} if self.anatomy.standing else {}),
        }

    def _standing(self) -> str:
        """The edits that this model stands under, in words."""
        return "; ".join(dict.fromkeys(edit.describe() for _, edit in self.anatomy.standing))


def _assembled(hf: Any, tokenizer: Any, name: str, declared: bool, standing: tuple[Any, ...]) -> Model:
    return Model(hf, tokenizer, assembled(hf, tokenizer, standing), name, declared)
