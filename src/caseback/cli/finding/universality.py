"""`caseback universality`: which units of a model another one has too, and how alike their layers are."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import quiet, there
from caseback.cli.options import CorpusFile, MaxLength, ModelFiles, Output, Seed, Skip, Tokens, Top, TreebankFile, Units
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def universality(
    model: Annotated[str, Argument(callback=there, help="A bundled model, a folder or a hub id.", show_default=False)],
    other: Annotated[
        str,
        Argument(
            callback=there,
            help="A model of the same tokenizer, such as another seed or checkpoint.",
            show_default=False,
        ),
    ],
    files: ModelFiles = ModelFiles().worded(gguf="Read this file, in GGUF, of both folders or hub ids."),
    texts: CorpusFile = CorpusFile().worded(
        corpus="Plain text: texts, JSON lines or Parquet, or a folder of such files."
    ),
    looked_at: Units = Units().worded(units="neuron or head: what is compared; by default neurons."),
    families: Annotated[
        bool, Option("--families", help="Say which families universal neurons are of, from an atlas of either model.")
    ] = False,
    trees: TreebankFile = TreebankFile(),
    amount: Tokens = Tokens(),
    length: MaxLength = MaxLength(),
    skip: Skip = Skip(skip=4),
    top: Top = Top(),
    seed: Seed = Seed(),
    output: Output = Output(),
) -> None:
    """Which units of a model another one has too, beside that one rotated; families of them; layers that are alike."""
    if texts.corpus is None:
        raise CasebackError("no text to compare on: give --corpus TEXT")
    units = looked_at.units or "neuron"
    if trees.treebank is not None and not families:
        raise CasebackError("--treebank is for families: give --families too")
    if families and units != "neuron":
        raise CasebackError(f"--families are of neurons, and --units is {units!r}")
    with quiet():
        from caseback.behaviors import atlas, layer_similarity, universal_families
        from caseback.behaviors import universality as universality_of
        from caseback.behaviors.seeds.families import FAMILIES
        from caseback.model.loading.load import load
        from caseback.reports.concepts.universality import universality_document
        from caseback.tasks.formats import conllu
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.universality import print_universality

        both = load(model, **files.how), load(other, **files.how)
        read = {"n_tokens": amount.tokens, "length": length.max_length, "progress": True}
        matched = universality_of(*both, texts.corpus, units=units, skip=skip.skip, seed=seed.seed, **read)
        alike = layer_similarity(*both, texts.corpus, skip=skip.skip, **read)
        of_families = None
        if families:
            kinds = [kind for some in FAMILIES.values() for kind in some]
            treebank = None if trees.treebank is None else list(conllu(trees.treebank))
            given = {"treebank": treebank, "kinds": kinds, "proofs": False, "seed": seed.seed, **read}
            of_families = universal_families(matched, *(atlas(one, texts.corpus, **given) for one in both))
        document = universality_document(
            matched, similarity=alike, families=of_families, top=top.top, folders=(model, other)
        )
    answer(output, document, text=lambda: print_universality(document), page=lambda path: write_page(document, path))
