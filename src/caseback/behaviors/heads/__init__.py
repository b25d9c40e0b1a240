"""Heads by what they attend to and what they write (entries 5.1.1 to 5.1.10), a kind or a few of them a file."""

from caseback.behaviors.heads import answering as answering
from caseback.behaviors.heads import dark as dark
from caseback.behaviors.heads import domains as domains
from caseback.behaviors.heads import in_context as in_context
from caseback.behaviors.heads import matching as matching
from caseback.behaviors.heads import positional as positional
from caseback.behaviors.heads import rare as rare
from caseback.behaviors.heads import reach as reach
from caseback.behaviors.heads import relations as relations
from caseback.behaviors.heads import repeats as repeats
from caseback.behaviors.heads import sinks as sinks
from caseback.behaviors.heads import suppression as suppression
from caseback.behaviors.heads import syntax as syntax
from caseback.behaviors.heads import vocabulary as vocabulary
from caseback.behaviors.heads import words as words
