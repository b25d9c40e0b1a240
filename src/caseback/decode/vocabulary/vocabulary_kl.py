"""KL(p || q) through the unembedding and its gradient at the stream, without autograd over the vocabulary.

    z = c (norm(t) W_U + b_U),  q = softmax(z):
    KL = sum p log p - norm(t) . c E_p[W_U] - c E_p[b_U] + logsumexp z,    d KL / d norm(t) = c (E_q[W_U] - E_p[W_U])

with E_p[W_U] = p W_U^T. Where several streams are compared with one prediction, E_p is formed once for all of them, and
of the arrays of the vocabulary's size only z and q exist: one product there, one softmax, one product back. Capped
logits, cap tanh(z / cap), have their slope between. Tokens are gone through in chunks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.anatomy import Anatomy, weight_matrix
from caseback.model.norms import at_least_float32


class VocabularyKL:
    """The divergence of predictions read off streams from given ones.

    Parameters
    ----------
    anatomy
        Of the model whose final norm and unembedding read the streams.
    max_logits
        The most logits formed at once.
    """

    def __init__(self, anatomy: Anatomy, max_logits: int = 2**24):
        self.cap, self.scale = anatomy.logit_softcap, anatomy.logit_scale
        norm = anatomy.final_norm
        self.norm = None if norm is None else anatomy.norms[id(norm)]
        unembed = at_least_float32(weight_matrix(anatomy.unembed).detach())
        if anatomy.unembed_project is not None:
            unembed = at_least_float32(weight_matrix(anatomy.unembed_project).detach()) @ unembed
        # (vocab, d_model), as most models store it, so that this is no copy
        self.rows = unembed.T.contiguous()
        bias = getattr(anatomy.unembed, "bias", None)
        self.bias = None if bias is None else at_least_float32(bias.detach())
        self.step = max(1, max_logits // anatomy.d_vocab)

    def log_probs(self, final: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        """Log probabilities that the model itself reads off its final stream."""
        logits = self._logits(self._normed(final)[0])
        return (logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)).log_softmax(-1)

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
        for start in range(0, n_tokens, step):
            here = slice(start, start + step)
            divergence[:, here], gradient[:, here] = self._chunk(streams[:, here], log_p[here].exp())
        return divergence.clamp_min_(0), gradient

    def _chunk(self, streams: Float[Tensor, "row token d_model"], p: Float[Tensor, "token vocab"]):
        n_rows = len(streams)
        normed, u, denominator = self._normed(streams.flatten(0, 1))
        logits = self._logits(normed)
        slope = None
        if self.cap is None:
            # shared by all streams of a token
            expected = (p @ self.rows * self.scale).repeat(n_rows, 1)
            mean_logit = torch.linalg.vecdot(normed, expected)
            if self.bias is not None:
                mean_logit = mean_logit + (p @ self.bias * self.scale).repeat(n_rows)
        else:
            slope = logits.div_(self.cap).tanh_()
            logits = slope * self.cap
            mean_logit = torch.linalg.vecdot(p.repeat(n_rows, 1), logits)
        q = torch.softmax(logits, -1)
        likeliest = p.argmax(-1).repeat(n_rows)[:, None]
        log_total = (logits.gather(-1, likeliest) - q.gather(-1, likeliest).log())[:, 0]
        if not bool(log_total.isfinite().all()):
            log_total = torch.logsumexp(logits, -1)
        negentropy = -torch.special.entr(p).sum(-1).repeat(n_rows)
        if slope is None:
            back = q @ self.rows * self.scale - expected
        else:
            back = (q - p.repeat(n_rows, 1)).mul_(1 - slope.square_()) @ self.rows * self.scale
        gradient = self._norm_back(u, denominator, back)
        return (negentropy - mean_logit + log_total).view(n_rows, -1), gradient.view(streams.shape)

    def _normed(self, t: Float[Tensor, "row d_model"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """After the final norm; before its gain and bias; and its denominator."""
        if self.norm is None:
            return t, t, None
        denominator = self.norm.scale(t)
        u = self.norm.centre(t) / denominator
        out = u * self.norm.gamma.to(u)
        return (out if self.norm.beta is None else out + self.norm.beta.to(u)), u, denominator

    def _logits(self, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits before any cap."""
        logits = normed @ self.rows.T if self.bias is None else torch.addmm(self.bias, normed, self.rows.T)
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def _norm_back(self, u: Tensor, denominator: Tensor | None, g: Float[Tensor, "row d_model"]) -> Tensor:
        """The norm's vector-Jacobian product: M (g gamma - u mean(u g gamma)) / s."""
        if self.norm is None or denominator is None:
            return g
        g = g * self.norm.gamma.to(g)
        return self.norm.centre(g - u * (u * g).mean(-1, keepdim=True)) / denominator
