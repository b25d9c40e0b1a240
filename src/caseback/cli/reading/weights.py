"""`caseback weights`: what a neuron or a head reads and writes, as words."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.inputs import file_to
from caseback.cli.loading import quiet
from caseback.errors import CasebackError, SiteAbsent

_OF_MLP = ("in", "gate", "out")


def weights(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder or a hub id.")],
    layer: Annotated[int, typer.Option(help="Which layer.")],
    head: Annotated[int | None, typer.Option(help="Which head.", show_default=False)] = None,
    neuron: Annotated[int | None, typer.Option(help="Which neuron of the MLP.", show_default=False)] = None,
    expert: Annotated[int | None, typer.Option(help="Whose, in a mixture of experts.", show_default=False)] = None,
    matrix: Annotated[
        str | None,
        typer.Option(
            help="ov, qk, q, k, v, o of a head; in, gate, out of an MLP. By default ov, or all of a neuron's."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many tokens, pairs or singular vectors.")] = 10,
    words: Annotated[int, typer.Option(help="How many tokens a row, where a row is a direction.")] = 6,
    svd: Annotated[bool, typer.Option("--svd", help="Read the singular vectors of the matrix.")] = False,
    folded: Annotated[bool, typer.Option(help="Fold norms and multipliers in.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with token clouds, or pairs as bars.", show_default=False)
    ] = None,
) -> None:
    """Read weights as words: a neuron, a head's circuits or directions, the singular vectors of any matrix."""
    file_to(html)
    if head is not None and neuron is not None:
        raise CasebackError(f"--head {head} and --neuron {neuron}: expected one of them")
    if head is None and neuron is None and not svd:
        raise CasebackError("expected --head or --neuron to say whose weights, or --svd for a whole matrix")
    if neuron is not None and (svd or (matrix is not None and matrix not in _OF_MLP)):
        raise CasebackError(f"--neuron {neuron} goes with --matrix in, gate or out, and without --svd")
    if top < 1 or words < 1:
        raise CasebackError(f"--top {top} --words {words}: expected at least 1 of each")
    chosen = matrix or ("ov" if head is not None else "out")
    with quiet():
        from caseback.decode.vocabulary import circuit_pairs, weight_svd_words, weights_as_words
        from caseback.model.running.load import load

        loaded = load(model)
        where = f"layer {layer}" if head is None else f"L{layer}H{head}"
        found: Any
        if neuron is not None:
            found = _of_neuron(loaded, matrix, layer, neuron, expert, top, folded)
        elif svd:
            found = weight_svd_words(loaded, chosen, layer, head=head, expert=expert, top=top, k=words, folded=folded)
        elif chosen in ("ov", "qk"):
            assert head is not None
            found = circuit_pairs(loaded, chosen, layer, head, k=top, folded=folded)
        else:
            found = weights_as_words(loaded, chosen, layer, head=head, expert=expert, k=words, folded=folded)
    if as_json:
        from caseback.reports.result_json import result_json

        made = {n: result_json(w) for n, w in found.items()} if neuron is not None else result_json(found)
        typer.echo(json.dumps(made, allow_nan=False))
    else:
        _print(found, chosen, where, neuron, layer, top)
    if html is not None:
        from caseback.reports.weights import weights_document
        from caseback.views.page.kinds import write_page

        document = weights_document(loaded, found, most=top)
        typer.echo(f"written to {write_page(document, html)}", err=True)


def _print(found: Any, chosen: str, where: str, neuron: int | None, layer: int, top: int) -> None:
    """The result as a table."""
    from rich.console import Console

    from caseback.views.text import weight_words as text

    console = Console()
    if neuron is not None:
        console.print(text.units_table(f"Neuron {neuron} of layer {layer}", list(found.items())))
    elif "rank" in found.dims:
        console.print(text.singular_table(f"Singular vectors of {chosen}, {where}", found))
    elif chosen in ("ov", "qk"):
        console.print(text.pairs_table(f"{chosen.upper()} of {where}", found))
        said = f"own token largest in {100 * found.attrs['copying']:.1f}% of rows"
        console.print(f"{said}; mean {found.attrs['own_mean']:+.3g} with itself, {found.attrs['mean']:+.3g} over all")
    else:
        unit = str(found["top_id"].dims[0])
        rows = [(f"{chosen} {i}", found.isel({unit: i})) for i in range(min(top, found.sizes[unit]))]
        console.print(text.units_table(f"Directions of {chosen}, {where}", rows))


def _of_neuron(
    model: Any, matrix: str | None, layer: int, neuron: int, expert: int | None, top: int, folded: bool
) -> dict[str, Any]:
    """What each matrix of the MLP holds for one neuron; those that the model lacks are left out unless asked for."""
    from caseback.decode.vocabulary import weights_as_words

    found = {}
    for name in _OF_MLP if matrix is None else (matrix,):
        try:
            made = weights_as_words(model, name, layer, expert=expert, units=[neuron], k=top, folded=folded)
        except SiteAbsent:
            if matrix is not None or name != "gate":
                raise
            continue
        found[name] = made.isel(neuron=0)
    return found
