"""What a model finds in long prompts, and by which heads (PRIMER 5.4.25)."""

from caseback.behaviors.long_context.needle_test import needle_test as needle_test
