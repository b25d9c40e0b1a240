"""KL(p || q) through the unembedding and its gradient at the stream, without autograd over the vocabulary.

    z = c (norm(t) W_U + b_U),  q = softmax(z):
    KL = sum p (log p - z) + logsumexp z,    d KL / d norm(t) = c (q - p) W_U^T

Of the arrays of the vocabulary's size only z is held, for some tokens at a time, and q - p is written over it: one
product there and one back, each in blocks of the vocabulary. Capped logits, cap tanh(z / cap), have their slope
between.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import END, edited_end, expect_unedited_logits, pulled_through_end
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.dense import wide_bias, wide_matrix
from caseback.model.anatomy.stream import expect_sums
from caseback.model.running.verify import under_edits


class VocabularyKL:
    """The divergence of predictions read off streams from given ones.

    Parameters
    ----------
    anatomy
        Of the model whose final norm and unembedding read the streams.
    max_logits
        The most logits formed at once.

    Raises
    ------
    EditError
        For a model under edits of its logits, or of the final norm's output that are not affine.
    """

    def __init__(self, anatomy: Anatomy, max_logits: int | None = None):
        expect_tokens_out(anatomy, "a lens that is fitted through the unembedding")
        expect_sums(anatomy, "a lens that is fitted through the unembedding")
        expect_unedited_logits(anatomy, "a lens that is fitted through the unembedding")
        self.anatomy, self.end = anatomy, edited_end(anatomy)
        self.cap, self.scale = anatomy.logit_softcap, anatomy.logit_scale
        norm = anatomy.final_norm
        self.norm = None if norm is None else anatomy.norms[norm]
        unembed = wide_matrix(anatomy.unembed, anatomy.device)
        if anatomy.unembed_project is not None:
            unembed = wide_matrix(anatomy.unembed_project, anatomy.device) @ unembed
        # (vocab, d_model), as most models store it, so that this is no copy
        self.rows = unembed.T.contiguous()
        self.bias = wide_bias(anatomy.unembed, anatomy.device)
        self.step = max(1, limit("lens_logits", given=max_logits) // anatomy.d_vocab)
        # on CPUs a product in blocks is fastest: with a result as wide as the vocabulary it takes 1.4 times the time
        block = limit("kl_vocabulary")
        self.blocks = [slice(i, i + block) for i in range(0, len(self.rows), block)]

    def log_probs(self, final: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        """Log probabilities that the model itself reads off its final stream."""
        normed, _, _ = self._normed(final)
        logits = normed.new_empty(len(normed), len(self.rows))
        for block in self.blocks:
            self._logits(normed, block, logits[:, block])
        return logits.log_softmax(-1)

    def __call__(
        self, streams: Float[Tensor, "row token d_model"], log_p: Float[Tensor, "token vocab"]
    ) -> tuple[Float[Tensor, "row token"], Float[Tensor, "row token d_model"]]:
        """KL(p || q) of every stream, and the gradient of their sum at the streams.

        Parameters
        ----------
        streams
            Several streams for each token.
        log_p
            What they are compared with.
        """
        n_rows, n_tokens, _ = streams.shape
        divergence, gradient = streams.new_empty(n_rows, n_tokens), torch.empty_like(streams)
        step = max(1, self.step // n_rows)
        # one array for all chunks, its rows padded to whole cache lines
        space = streams.new_empty(n_rows * min(step, n_tokens), -(-len(self.rows) // 16) * 16)
        for start in range(0, n_tokens, step):
            here = slice(start, start + step)
            divergence[:, here], gradient[:, here] = self._chunk(streams[:, here], log_p[here], space)
        return divergence.clamp_min_(0), gradient

    def _chunk(
        self, streams: Float[Tensor, "row token d_model"], log_p: Float[Tensor, "token vocab"], space: Tensor
    ) -> tuple[Tensor, Tensor]:
        normed, u, denominator = self._normed(streams.flatten(0, 1))
        # (row, token, vocab)
        logits = space[: len(normed), : len(self.rows)].unflatten(0, streams.shape[:2])
        for block in self.blocks:
            self._logits(normed, block, logits[..., block].flatten(0, 1))
        log_total = torch.logsumexp(logits, -1, keepdim=True)
        divergence, back = log_total[..., 0], torch.zeros_like(normed)
        for block in self.blocks:
            z, p = logits[..., block], log_p[:, block].exp()
            divergence = divergence - torch.special.entr(p).sum(-1) - torch.linalg.vecdot(p, z)
            slope = None if self.cap is None else 1 - (z / self.cap).square_()
            gap = z.sub_(log_total).exp_().sub_(p)
            gap = gap if slope is None else gap.mul_(slope)
            back.addmm_(gap.flatten(0, 1), self.rows[block], alpha=self.scale)
        return divergence, self._norm_back(u, denominator, back).view(streams.shape)

    def _normed(self, t: Float[Tensor, "row d_model"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """After the final norm and its standing edits; before its gain and bias; and its denominator."""
        if self.norm is None:
            return self._edited(t), t, None
        denominator = self.norm.scale(t)
        u = self.norm.centre(t) / denominator
        out = u * self.norm.gamma.to(u)
        return self._edited(out if self.norm.beta is None else out + self.norm.beta.to(u)), u, denominator

    def _edited(self, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        return under_edits(self.anatomy, END, normed) if self.end else normed

    def _logits(self, normed: Float[Tensor, "row d_model"], block: slice, out: Float[Tensor, "row block"]) -> None:
        """Write the logits of some of the vocabulary."""
        torch.mm(normed, self.rows[block].T, out=out)
        if self.bias is not None:
            out += self.bias[block]
        if self.scale != 1.0:
            out *= self.scale
        if self.cap is not None:
            out.div_(self.cap).tanh_().mul_(self.cap)

    def _norm_back(self, u: Tensor, denominator: Tensor | None, g: Float[Tensor, "row d_model"]) -> Tensor:
        """The norm's vector-Jacobian product: M (g gamma - u mean(u g gamma)) / s."""
        g = pulled_through_end(self.anatomy, g)[0] if self.end else g
        if self.norm is None or denominator is None:
            return g
        g = g * self.norm.gamma.to(g)
        return self.norm.centre(g - u * (u * g).mean(-1, keepdim=True)) / denominator
