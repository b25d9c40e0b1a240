"""The tuned lens: an affine map for each depth, trained so that its reading is the model's prediction (PRIMER 4.3.3).

    lens_r(h) = unembed(h + h A_r + b_r),    min over A_r, b_r of  E KL(f || lens_r)

It begins as the logit lens (A = 0, b = 0). Belrose et al.'s recipe is 250 steps of 2^18 tokens: SGD with Nesterov
momentum 0.9, learning rate 1 (1 - 0.9) falling linearly to 0, weight decay 1e-3, the joint gradient cut at norm 1. On
a small machine the recipe ``"small"`` reaches as low a divergence with a fraction of the text: it begins at the affine
translators' least squares where these are better than the logit lens, and goes on with Adam.

Each depth's map is trained by itself, all of them in one pass; the gradient through the vocabulary is written out
(``vocabulary_kl``) and the model itself only runs forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.draws import Draws, expect_steps
from caseback.decode.vocabulary.lenses.lens import Lens, fingerprint, streams
from caseback.decode.vocabulary.lenses.translators import MomentSums
from caseback.decode.vocabulary.lenses.vocabulary_kl import VocabularyKL
from caseback.errors import OutOfRange
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

Recipe = Literal["paper", "small"]
# steps, tokens per step, learning rate
RECIPES: dict[str, tuple[int, int, float]] = {"paper": (250, 2**18, 1.0), "small": (150, 2**11, 3e-3)}
MOMENTUM, DECAY, CLIP = 0.9, 1e-3, 1.0
SAVE_EVERY = 10


@technique(
    role="lens",
    entry=("4.3.3",),
    citation="Belrose et al. 2023",
    cost="steps x tokens x (forward + 2 layers x unembedding)",
)
def fit_tuned_lens(
    model: Model,
    texts: Iterable[str],
    *,
    recipe: Recipe = "paper",
    steps: int | None = None,
    tokens_per_step: int | None = None,
    lr: float | None = None,
    bias: bool = True,
    length: int | None = None,
    batch: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    max_logits: int | None = None,
    progress: bool = False,
) -> Lens:
    """Train a tuned lens on a corpus.

    Parameters
    ----------
    model
        The model. It only runs forward.
    texts
        The corpus: texts, or lists of token ids. It is gone through again, in another order, when it ends.
    recipe
        ``"paper"``: as Belrose et al. train; ``"small"``: least squares first, then Adam.
    steps, tokens_per_step, lr
        Instead of the recipe's. The learning rate falls linearly to 0.
    bias
        Train b too.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``; a step takes as many batches as it needs.
    seed
        Same seed, same result. It draws the order of the rows.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. Written every ten steps.
    max_logits
        The most logits formed at once.
    progress
        Show a progress bar. It shows the mean divergence.

    Returns
    -------
    Lens
        Of kind ``"tuned"``; ``provenance["kl"]`` is each depth's divergence over the last tenth of the steps and
        ``provenance["tokens"]`` how many tokens were seen, repeated ones each time.

    Raises
    ------
    CasebackError
        For an empty corpus.
    LoadError
        For a checkpoint of another training, or a damaged one.
    OutOfRange
        For an unknown recipe, and for steps, tokens or a learning rate that are not above 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Mary went to the store.", "John saw the dog at the park."]
    >>> lens = fit_tuned_lens(model, texts, recipe="small", steps=3, tokens_per_step=16)
    >>> lens.kind, len(lens.provenance["kl"]) == model.n_layers
    ('tuned', True)
    """
    if recipe not in RECIPES:
        raise OutOfRange(f"recipe {recipe!r}: expected one of {', '.join(RECIPES)}")
    defaults = RECIPES[recipe]
    steps = defaults[0] if steps is None else steps
    tokens_per_step = defaults[1] if tokens_per_step is None else tokens_per_step
    lr = defaults[2] if lr is None else lr
    expect_steps(steps, tokens_per_step, lr)
    drawn = Draws(model, texts, length=length, batch=batch, seed=seed)
    training = _Training(model, recipe, lr, steps, bias, max_logits)
    options = {
        "recipe": recipe,
        "steps": steps,
        "tokens_per_step": tokens_per_step,
        "lr": lr,
        "seed": seed,
        "bias": bias,
    }
    job = {"corpus": drawn.rows, "model": model, "options": {**options, "batch": batch}}
    file = Checkpoint(checkpoint, job, other="is the checkpoint of another training")
    begin, drawn.seen = training.resume(file)
    if begin == 0 and recipe == "small":
        training.least_squares(drawn.some(tokens_per_step * 4))
    bar = progress_bar(range(steps), initial=begin, show=progress, unit="step")
    for step in range(begin, steps):
        kl = training.step(step, drawn.of_step(step, tokens_per_step))
        bar.update()
        bar.set_postfix(kl=f"{float(kl.mean()):.3f}")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            training.keep(file, step + 1, drawn.seen)
    bar.close()
    last = torch.stack(training.history[-max(1, steps // 10) :]).mean(0)
    identity = torch.eye(model.d_model).to(training.a)
    return Lens(
        "tuned",
        tuple(range(model.n_layers)),
        (training.a + identity).detach(),
        training.b.detach(),
        model.n_layers,
        fingerprint=fingerprint(model),
        provenance={**options, "tokens": drawn.seen, "kl": last.tolist()},
    )


class _Training:
    """Parameters, optimizer and losses of a lens in training."""

    def __init__(self, model: Model, recipe: str, lr: float, steps: int, bias: bool, max_logits: int | None):
        self.model, self.lr, self.steps, self.bias = model, lr, steps, bias
        self.kl = VocabularyKL(model.anatomy, max_logits)
        like = self.kl.rows
        n, d = model.n_layers, model.d_model
        self.a = torch.zeros(n, d, d, dtype=like.dtype, device=like.device)
        self.b = torch.zeros(n, d, dtype=like.dtype, device=like.device)
        each = [self.a, self.b] if bias else [self.a]
        if recipe == "paper":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                each, lr=lr * (1 - MOMENTUM), momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
            )
        else:
            self.optimizer = torch.optim.Adam(each, lr=lr)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.history: list[Float[Tensor, " row"]] = []

    def gradients(self, batches: Iterable[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean divergence of each depth over some batches, and its gradients at A and b."""
        grad_a, grad_b = torch.zeros_like(self.a), torch.zeros_like(self.b)
        total, count = self.b.new_zeros(len(self.b)), 0
        for tokens in batches:
            at = streams(self.model, tokens, range(self.model.n_layers + 1))
            h = torch.stack([at[row][tokens.mask] for row in range(self.model.n_layers)]).to(self.a)
            log_p = self.kl.log_probs(at[self.model.n_layers][tokens.mask].to(self.a))
            divergence, at_stream = self.kl(torch.baddbmm(self.b[:, None], h, self.a) + h, log_p)
            total += divergence.sum(-1)
            grad_a += h.transpose(1, 2) @ at_stream
            grad_b += at_stream.sum(1)
            count += h.shape[1]
        return total / count, grad_a / count, grad_b / count

    def step(self, step: int, batches: Iterable[Tokens]) -> Float[Tensor, " row"]:
        """One step of the optimizer; gives the divergence before it."""
        kl, self.a.grad, grad_b = self.gradients(batches)
        self.b.grad = grad_b if self.bias else None
        torch.nn.utils.clip_grad_norm_([self.a, self.b] if self.bias else [self.a], CLIP)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 - step / self.steps)
        self.optimizer.step()
        self.history.append(kl.cpu())
        return kl

    def least_squares(self, batches: Iterable[Tokens]) -> None:
        """Begin each depth at its affine translator where that reads better than the logit lens does."""
        n, batches = self.model.n_layers, list(batches)
        sums = [MomentSums(self.model.d_model) for _ in range(n)]
        for tokens in batches:
            at = streams(self.model, tokens, range(n + 1))
            for row in range(n):
                sums[row].add(at[row][tokens.mask], at[n][tokens.mask])
        before, _, _ = self.gradients(batches)
        for row, moments in enumerate(sums):
            # few tokens for d_model^2 numbers: shrunk a little, towards 0 and so towards the corpus mean
            weight, shift, _ = moments.solve(bias=self.bias, ridge=1e-3)
            self.a[row] = weight.to(self.a) - torch.eye(self.model.d_model).to(self.a)
            self.b[row] = shift.to(self.b)
        worse = self.gradients(batches)[0] > before
        self.a[worse], self.b[worse] = 0, 0

    def keep(self, file: Checkpoint, step: int, seen: int) -> None:
        """Write all that is needed to go on after ``step`` steps, which saw ``seen`` tokens."""
        held = {"a": self.a, "b": self.b, "history": torch.stack(self.history)}
        for i, state in self.optimizer.state_dict()["state"].items():
            held |= {f"{i}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
        file.write(held, step=step, seen=seen)

    def resume(self, file: Checkpoint) -> tuple[int, int]:
        """Go on from a checkpoint if there is one; gives the steps done and the tokens that they saw."""
        if (saved := file.read()) is None:
            return 0, 0
        held = dict(saved.tensors)
        self.a.copy_(held.pop("a"))
        self.b.copy_(held.pop("b"))
        self.history = list(held.pop("history"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in held.items():
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        return saved.state["step"], saved.state["seen"]
