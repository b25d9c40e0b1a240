"""A run that was made elsewhere: its tensors are here, its model is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from caseback.errors import SiteAbsent, TargetError, UnknownSite, did_you_mean
from caseback.model.anatomy.sites import Site, as_site, parse
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


class _Elsewhere:
    """Stands for a tokenizer that is not here."""

    def __call__(self, text: str, **_: Any) -> NoReturn:
        raise TargetError(
            f"{text!r}: the tokenizer is where the model is. Give the token's id (remote.token_id), or ask "
            "remote.measure(tokens, metric)"
        )

    def decode(self, ids: list[int], **_: Any) -> str:
        """The ids themselves."""
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, token: int) -> None:
        """Nothing: what a token is called is not known here."""


class RemoteAnatomy:
    """Which sites a remote model has, as its server says.

    Attributes
    ----------
    places
        For each site the layers that have it, None for a site that is in no layer.
    aliases
        Other names that a run was asked for, such as paths of modules, and the sites that they are.
    """

    tokenizer = _Elsewhere()
    classes = None
    standing = ()
    device = torch.device("cpu")

    def __init__(self, facts: Mapping[str, Any], aliases: Mapping[str, list[Site]] | None = None) -> None:
        remote = facts["remote"]
        self.places: dict[str, list[int] | None] = remote["sites"]
        self.n_layers, self.d_vocab, self.d_logits = (int(remote[key]) for key in ("n_layers", "d_vocab", "d_logits"))
        self.model_type, self.aliases = str(remote["family"]), dict(aliases or {})

    def sites(self, given: Any) -> Iterator[Site]:
        """The sites that a name or a pair stands for, as a model's own anatomy gives them.

        Raises
        ------
        UnknownSite
            For a site or a layer that the model has not.
        """
        if isinstance(given, str) and given in self.aliases:
            yield from self.aliases[given]
            return
        name, layer = self._parsed(given)
        if name.endswith((".input", ".output")):
            yield Site(name)
            return
        if name not in self.places:
            raise UnknownSite(f"the remote model has no site {name!r}. {did_you_mean(name, self.places)}")
        layers = self.places[name]
        if layers is None:
            yield Site(name)
        elif layer is None:
            yield from (Site(name, i) for i in layers)
        else:
            at = layer % self.n_layers if -self.n_layers <= layer < self.n_layers else layer
            if at not in layers:
                raise UnknownSite(f"layer {layer} of the remote model has no site {name!r}: it is in {layers}")
            yield Site(name, at)

    def _parsed(self, given: Any) -> tuple[str, int | None]:
        if isinstance(given, tuple) and len(given) == 2:
            return self._parsed(given[0])[0], given[1]
        base, _, layer = str(given).rpartition(".")
        if base in self.places and layer.isdecimal():
            return base, int(layer)
        if given in self.places or str(given).endswith((".input", ".output")):
            return str(given), None
        return parse(given) if isinstance(given, str) else as_site(given)


class RemoteRun(Run):
    """What a remote model's pass left, indexed as any run: ``run["z", 5]``.

    It can be the source of edits (``Resample``, ``Swap``, ``Freeze``, ``Mean``), which then bring along what they need
    of it. It has no graph, so no gradients.
    """

    anatomy: Any

    def __init__(
        self,
        anatomy: RemoteAnatomy,
        tokens: Tokens,
        acts: dict[Site, Tensor],
        logits: Tensor | None,
        edited: bool = False,
    ) -> None:
        super().__init__(anatomy, tokens, acts, logits, edited=edited)  # pyright: ignore[reportArgumentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteRun, (self.anatomy, self.tokens, self._acts, self._logits, self.edited)

    def detached(self) -> Run:
        """Itself: it has no graph."""
        return self

    def grad(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: the graph is not here.

        Raises
        ------
        SiteAbsent
        """
        raise SiteAbsent("a remote run has no gradients: they are computed on a local model alone, cb.load(...)")
