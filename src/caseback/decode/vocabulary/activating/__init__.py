"""What activates a unit, what it is about in words, and whether the words are right (PRIMER 4.3.14 to 4.3.17)."""

from caseback.decode.vocabulary.activating.collect import activating_inputs as activating_inputs
from caseback.decode.vocabulary.activating.collect import load_activating as load_activating
from caseback.decode.vocabulary.activating.found import Activating as Activating
from caseback.decode.vocabulary.activating.found import Example as Example
from caseback.decode.vocabulary.activating.units import Units as Units
from caseback.decode.vocabulary.activating.units import units_of as units_of
