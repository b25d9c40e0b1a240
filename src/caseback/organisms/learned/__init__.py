"""Learned Transformer programs: discrete heads found by gradient descent, written in the language of the compiled ones.

>>> from caseback.organisms.compiled import build
>>> task = build("previous_token", alphabet="ab", max_length=4)
>>> learned = learn_program(task.function, "ab", 4, layers=1, counters=0, lookups=0, restarts=8)
>>> learned.accuracy
1.0
"""

from caseback.organisms.learned.learn import learn_program as learn_program
from caseback.organisms.learned.program import LearnedProgram as LearnedProgram
