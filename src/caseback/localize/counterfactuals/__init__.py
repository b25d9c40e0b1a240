"""Counterfactuals: the smallest change of a prompt that moves its answer, found by itself."""

from caseback.localize.counterfactuals.finding import find as find
from caseback.localize.counterfactuals.fresh import fresh_prompts as fresh_prompts
from caseback.localize.counterfactuals.results import Change as Change
from caseback.localize.counterfactuals.results import Counterfactual as Counterfactual
from caseback.localize.counterfactuals.results import Counterfactuals as Counterfactuals
from caseback.localize.counterfactuals.swapping import swapped as swapped
from caseback.localize.counterfactuals.words import Word as Word
from caseback.localize.counterfactuals.words import words_of as words_of
