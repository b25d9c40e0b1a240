"""The field's public data formats, each read by one function into pairs for ``align``, sentences or statements.

    pairs = cb.tasks.formats.agreement_pairs("simple_train.json")
    prompts = cb.tasks.align(pairs, model, dropped=pairs.dropped)

Each names the file and line of what is malformed, or counts it with ``skip_malformed=True``.
"""

from caseback.tasks.formats.agreement_lines import agreement_pairs as agreement_pairs
from caseback.tasks.formats.circuit_tables import eap_ig as eap_ig
from caseback.tasks.formats.city_attributes import ravel as ravel
from caseback.tasks.formats.colored_choices import mib_mcqa as mib_mcqa
from caseback.tasks.formats.giving_templates import mib_ioi as mib_ioi
from caseback.tasks.formats.minimal_sentences import blimp as blimp
from caseback.tasks.formats.minimal_sentences import blimp_sentences as blimp_sentences
from caseback.tasks.formats.reading import Examples as Examples
from caseback.tasks.formats.relation_samples import relations as relations
from caseback.tasks.formats.subject_facts import counterfact as counterfact
from caseback.tasks.formats.subject_facts import known_facts as known_facts
from caseback.tasks.formats.treebank import Sentence as Sentence
from caseback.tasks.formats.treebank import conllu as conllu
from caseback.tasks.formats.truth_statements import Statement as Statement
from caseback.tasks.formats.truth_statements import statements as statements
from caseback.tasks.formats.word_functions import function_vectors as function_vectors
from caseback.tasks.formats.word_functions import word_functions as word_functions
from caseback.tasks.formats.word_tokens import WordTokens as WordTokens
from caseback.tasks.formats.word_tokens import word_tokens as word_tokens
