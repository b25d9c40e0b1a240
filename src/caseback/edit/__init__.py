"""Facts written into a model as data beside its weights, and what else they change (the Primer's 5.4.26)."""

from caseback.edit.facts import Fact as Fact
from caseback.edit.facts import relation_facts as relation_facts
from caseback.edit.fine_tuning import fine_tuned as fine_tuned
from caseback.edit.grace import grace as grace
from caseback.edit.in_context import demonstrations as demonstrations
from caseback.edit.key_moments import KeyMoments as KeyMoments
from caseback.edit.key_moments import key_moments as key_moments
from caseback.edit.key_moments import load_key_moments as load_key_moments
from caseback.edit.key_moments import save_key_moments as save_key_moments
from caseback.edit.knowledge_edit import KnowledgeEdit as KnowledgeEdit
from caseback.edit.knowledge_edit import applied as applied
from caseback.edit.knowledge_edit import load_knowledge_edit as load_knowledge_edit
from caseback.edit.knowledge_edit import save_knowledge_edit as save_knowledge_edit
from caseback.edit.memit import alphaedit as alphaedit
from caseback.edit.memit import emmet as emmet
from caseback.edit.memit import memit as memit
from caseback.edit.published import load_counterfact as load_counterfact
from caseback.edit.published import load_zsre as load_zsre
from caseback.edit.rome import rome as rome
from caseback.edit.scores import scores as scores
from caseback.edit.scores import summary as summary
from caseback.edit.sequence import sequential as sequential
from caseback.edit.side_effects import generation_entropy as generation_entropy
from caseback.edit.side_effects import of_generation as of_generation
from caseback.edit.side_effects import on_plain_text as on_plain_text
from caseback.edit.values import Search as Search
