"""Neurons by what they fire on and what they write (entries 5.2.1 to 5.2.18), a kind or a few of them a file."""

from caseback.behaviors.neurons import alphabet as alphabet
from caseback.behaviors.neurons import dead as dead
from caseback.behaviors.neurons import entropy as entropy
from caseback.behaviors.neurons import erasing as erasing
from caseback.behaviors.neurons import experts as experts
from caseback.behaviors.neurons import families as families
from caseback.behaviors.neurons import frequency as frequency
from caseback.behaviors.neurons import grammar as grammar
from caseback.behaviors.neurons import knowledge as knowledge
from caseback.behaviors.neurons import labelled as labelled
from caseback.behaviors.neurons import ngrams as ngrams
from caseback.behaviors.neurons import partition as partition
from caseback.behaviors.neurons import position as position
from caseback.behaviors.neurons import super_weights as super_weights
from caseback.behaviors.neurons import switches as switches
from caseback.behaviors.neurons import syntax as syntax
from caseback.behaviors.neurons import value_vectors as value_vectors
from caseback.behaviors.neurons import vocabulary_shapes as vocabulary_shapes
from caseback.behaviors.neurons import word_ends as word_ends
