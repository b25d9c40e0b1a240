"""What activates a unit, what it is about in words, and whether the words are right (PRIMER 4.3.14 to 4.3.17)."""

from caseback.decode.vocabulary.activating.chat import Chat as Chat
from caseback.decode.vocabulary.activating.chat import local_chat as local_chat
from caseback.decode.vocabulary.activating.collect import activating_inputs as activating_inputs
from caseback.decode.vocabulary.activating.collect import load_activating as load_activating
from caseback.decode.vocabulary.activating.examples import Activating as Activating
from caseback.decode.vocabulary.activating.examples import Example as Example
from caseback.decode.vocabulary.activating.in_words import InWords as InWords
from caseback.decode.vocabulary.activating.in_words import explain_in_words as explain_in_words
from caseback.decode.vocabulary.activating.self_explanation import Faithfulness as Faithfulness
from caseback.decode.vocabulary.activating.self_explanation import insertion_test as insertion_test
from caseback.decode.vocabulary.activating.self_explanation import planted_bias_test as planted_bias_test
from caseback.decode.vocabulary.activating.synthesise import Synthesised as Synthesised
from caseback.decode.vocabulary.activating.synthesise import synthesise_input as synthesise_input
from caseback.decode.vocabulary.activating.token_statistics import TokenStatistics as TokenStatistics
from caseback.decode.vocabulary.activating.token_statistics import token_statistics as token_statistics
from caseback.decode.vocabulary.activating.units import Units as Units
from caseback.decode.vocabulary.activating.units import units_of as units_of
