"""The options that commands of dictionaries share, or that say together what kind of dictionary is meant.

A recipe's options are called as in ``Recipe``; those that are not given are as by default there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option

from caseback.cli.group import Group
from caseback.cli.inputs import names_in, numbers
from caseback.cli.loading import model_of
from caseback.cli.options import OfModel, OtherModel
from caseback.errors import CasebackError


class Force(Group):
    """Dictionaries of another model."""

    force: Annotated[bool, Option("--force", help="Read dictionaries of a model of another name.")] = False


class Dictionaries(Force):
    """Dictionaries whose features are nodes."""

    dictionaries: Annotated[
        list[Path] | None,
        Option(help="A dictionary, one for each layer and site, or a set of them; give it again for each."),
    ] = None

    def expect_forced(self) -> None:
        """Refuse ``--force`` without anything that it reads.

        Raises
        ------
        CasebackError
        """
        if self.force and not self.dictionaries:
            raise CasebackError("--force reads --dictionaries of a model of another name: give some, or leave it out")


class Grain(Dictionaries):
    """What the nodes of a circuit are."""

    nodes: Annotated[
        str, Option(help="What nodes are: heads (and MLPs), neurons (and heads), or features of --dictionaries.")
    ] = "heads"
    strongest: Annotated[int, Option(min=1, help="How many nodes, with --nodes features or neurons.")] = 60
    spans: Annotated[
        bool, Option("--spans", help="Edges between heads and MLPs at the spans that the task names, each by itself.")
    ] = False


class SomeFeatures(Group):
    """Features by number."""

    some: Annotated[str | None, Option("--features", help="Which features: 3,17.")] = None

    @property
    def chosen(self) -> list[int] | None:
        """Their numbers; None for none named."""
        return numbers(self.some, "--features")


class NotesFile(Group):
    """What people say of units."""

    notes: Annotated[Path | None, Option(help="A file of people's notes, as caseback label writes it.")] = None


class SecondModel(OtherModel):
    """The second model of crosscoders of two."""

    def beside(self, first: Any) -> dict[str, Any] | None:
        """Both models by name, where there is a second."""
        if self.other_model is None:
            return None
        second = model_of(OfModel(model=self.other_model))
        if second.name == first.name:
            raise CasebackError(f"both models are called {first.name!r}: give copies in folders of other names")
        return {first.name: first, second.name: second}


class Where(Group):
    """Where dictionaries read and write."""

    sites: Annotated[
        str, Option("--site", help="What is read: resid_post:5; several parted by commas, sources of one joined by +.")
    ] = "resid_post:0"
    target: Annotated[
        str | None,
        Option(
            help="What is reconstructed, for a transcoder: mlp_out:5, or as many as sites; by default the site itself."
        ),
    ] = None
    skip: Annotated[bool, Option("--skip", help="Learn a linear map of what is read beside (skip transcoders).")] = (
        False
    )

    def pairs(self, models: Sequence[str] = ()) -> list[tuple[str, str | list[str], str | list[str] | None]]:
        """What each is called, where it reads and where it writes; in each of several models, if they are named.

        Raises
        ------
        CasebackError
            For other numbers of sites and targets.
        """
        sites = names_in(self.sites.replace(":", "."))
        targets = [None] if self.target is None else [*names_in(self.target.replace(":", "."))]
        if len(targets) not in (1, len(sites)):
            raise CasebackError(
                f"--target names {len(targets)}: expected 1 target, or one for each of {len(sites)} sites"
            )
        targets = targets * len(sites) if len(targets) == 1 else targets
        if models:
            if self.target is not None or any("+" in site for site in sites):
                raise CasebackError(
                    "with --other-model a crosscoder reads one --site in both models: give no + and no --target"
                )
            return [(site, [f"{name}:{site}" for name in models], None) for site in sites]
        split = lambda text: text.split("+") if "+" in text else text  # noqa: E731
        return [
            (site, split(site), None if target is None else split(target))
            for site, target in zip(sites, targets, strict=True)
        ]


class Schedule(Group):
    """How dictionaries are trained, where it is not as by default."""

    lr: Annotated[float | None, Option(help="Adam's rate; by default 2e-4 / sqrt(features / 16384).")] = None
    beta: Annotated[
        float | None, Option("--beta", help="Adam's first beta, .9 by default; 0 leaves fewer dead features.")
    ] = None
    coefficient: Annotated[float | None, Option(help="Of the penalty, in place of a target of active features.")] = None
    k_start: Annotated[
        float | None,
        Option(help="Active features a token at the start, which fall to --k or --l0 in half the training."),
    ] = None
    finish: Annotated[
        float | None, Option(help="The last share of the training, in which nothing is penalized and codes grow back.")
    ] = None
    resample_every: Annotated[
        int | None, Option(min=1, help="Steps after which dead features start again; by default never.")
    ] = None
    normalization: Annotated[
        Literal["none", "scale", "layer_norm", "unit_norm"] | None, Option(help="Of states; scale by default.")
    ] = None
    products: Annotated[
        Literal["float32", "bfloat16"],
        Option(help="What dense products are computed in; weights and what Adam knows stay float32."),
    ] = "float32"

    @property
    def given(self) -> dict[str, Any]:
        """What of a recipe they say."""
        own = {name: getattr(self, name) for name in self.options if name != "beta"}
        betas = {} if self.beta is None else {"betas": (self.beta, 0.999)}
        return betas | {name: value for name, value in own.items() if value is not None}


class Sparsity(Group):
    """How few features are active, and how they are grouped."""

    k: Annotated[
        str | None, Option("--k", help="Active features a token, 32 by default; several parted by commas.")
    ] = None
    l0: Annotated[
        float | None, Option("--l0", help="The target of active features a token, where activity is penalized.")
    ] = None
    experts: Annotated[
        int | None, Option(min=1, help="Of switch: experts that share the features out, 8 by default.")
    ] = None
    group_size: Annotated[
        int | None, Option(min=1, help="Of group_topk: features of a group, active together, 2 by default.")
    ] = None

    def expect_used(self, options: Sequence[Sequence[str]]) -> None:
        """Refuse what no architecture, of which each has some options, would heed.

        Raises
        ------
        CasebackError
        """
        for flag, name, value in (
            ("--experts", "n_experts", self.experts),
            ("--group-size", "group_size", self.group_size),
        ):
            if value is not None and not any(name in own for own in options):
                of = "switch" if name == "n_experts" else "group_topk"
                raise CasebackError(f"{flag} is for {of}: expected --architecture {of}, or leave it out")

    def recipes(self, options: Sequence[str], coefficient: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """For an architecture with some options, a label and what its recipe is given, one for each ``k``.

        A penalty's coefficient, where it is given, is in place of a target.
        """
        if "k" not in options and coefficient is not None and self.l0 is None:
            yield f"c{coefficient:g}", {}
            return
        if "k" not in options:
            l0 = self.l0 if self.l0 else 32.0
            yield format(l0, "g"), {"l0": l0}
            return
        more = {"n_experts": self.experts, "group_size": self.group_size}
        own = {name: value for name, value in more.items() if name in options and value is not None}
        for k in numbers(self.k, "--k") or [32]:
            yield str(k), {"options": {"k": k, **own}}
