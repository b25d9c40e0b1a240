"""What features are about, in words that need no language model, and whether the words are right (B.13)."""
