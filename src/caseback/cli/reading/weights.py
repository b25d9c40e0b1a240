"""`caseback weights`: what a neuron or a head reads and writes, as words."""

from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Dictionaries
from caseback.cli.loading import quiet, there
from caseback.cli.options import ModelFiles, OneUnit, Output, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

_OF_MLP = ("in", "gate", "out")


@with_options
def weights(
    model: Annotated[str, Argument(callback=there, help="A bundled model, a folder or a hub id.")],
    unit: OneUnit = OneUnit(layer=None),
    files: ModelFiles = ModelFiles(),
    expert: Annotated[int | None, Option(min=0, help="Whose, in a mixture of experts.")] = None,
    matrix: Annotated[
        str | None,
        Option(help="ov, qk, q, k, v, o of a head; in, gate, out of an MLP. By default ov, or all of a neuron's."),
    ] = None,
    find: Annotated[
        str | None,
        Option(help="A word, one token: which neurons and heads of all layers write or read it, in place of a unit."),
    ] = None,
    features: Dictionaries = Dictionaries().worded(
        dictionaries="With --find: a dictionary whose features are looked through too; give it again for each."
    ),
    top: Top = Top(10).worded(top="How many tokens, pairs or singular vectors."),
    words: Annotated[int, Option(min=1, help="How many tokens a row, where a row is a direction.")] = 6,
    svd: Annotated[bool, Option("--svd", help="Read the singular vectors of the matrix.")] = False,
    folded: Annotated[bool, Option(help="Fold norms and multipliers in.")] = True,
    output: Output = Output(),
) -> None:
    """Read weights as words: a neuron, a head's circuits or directions, singular vectors; or a word's units."""
    head, neuron, layer = unit.head, unit.neuron, unit.layer
    features.expect_forced()
    if find is not None:
        _find(
            model,
            files,
            find,
            top.top,
            folded,
            output,
            features,
            alone=(head, neuron, layer, expert, matrix, svd or None, output.html),
        )
        return
    if features.dictionaries:
        raise CasebackError("--dictionaries are looked through for a word: give --find WORD with it")
    if layer is None:
        raise CasebackError("--layer says whose weights: expected it, or --find WORD for the units of all layers")
    if head is not None and neuron is not None:
        raise CasebackError(f"--head {head} and --neuron {neuron}: expected one of them")
    if head is None and neuron is None and not svd:
        raise CasebackError("expected --head or --neuron to say whose weights, or --svd for a whole matrix")
    if neuron is not None and (svd or (matrix is not None and matrix not in _OF_MLP)):
        raise CasebackError(f"--neuron {neuron} goes with --matrix in, gate or out, and without --svd")
    chosen = matrix or ("ov" if head is not None else "out")
    with quiet():
        from caseback.decode.vocabulary import circuit_pairs, weight_svd_words, weights_as_words
        from caseback.model.loading.load import load
        from caseback.reports.result_json import result_json
        from caseback.reports.weights import neuron_words, weights_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.weight_words import print_weights

        loaded = load(model, **files.how)
        how: dict[str, Any] = {"expert": expert, "folded": folded}
        result: Any
        if neuron is not None:
            result = neuron_words(loaded, layer, neuron, matrix=matrix, k=top.top, **how)
        elif svd:
            result = weight_svd_words(loaded, chosen, layer, head=head, top=top.top, k=words, **how)
        elif chosen in ("ov", "qk"):
            assert head is not None
            result = circuit_pairs(loaded, chosen, layer, head, k=top.top, folded=folded)
        else:
            result = weights_as_words(loaded, chosen, layer, head=head, k=words, **how)
    plain = {name: result_json(part) for name, part in result.items()} if neuron is not None else result
    answer(
        output,
        plain,
        text=lambda: print_weights(result, top=top.top),
        page=lambda path: write_page(weights_document(loaded, result, most=top.top), path),
    )


def _find(
    model: str,
    files: ModelFiles,
    word: str,
    top: int,
    folded: bool,
    output: Output,
    features: Dictionaries,
    *,
    alone: tuple[Any, ...],
) -> None:
    """A word's units in place of a unit's words."""
    if any(given is not None for given in alone):
        raise CasebackError("--find looks through all units, and has no page: leave out what names one, and --html")
    with quiet():
        from caseback.decode.dictionaries import load as load_dictionary
        from caseback.decode.vocabulary import units_of_word
        from caseback.model.loading.load import load
        from caseback.views.text.weight_words import print_weights

        loaded = load(model, **files.how)
        dictionaries = [
            load_dictionary(path, model=loaded, force=features.force) for path in features.dictionaries or ()
        ]
        result = units_of_word(loaded, word, dictionaries=dictionaries, k=top, folded=folded)
    answer(output, result, text=lambda: print_weights(result, top=top))
