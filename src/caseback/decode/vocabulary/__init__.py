"""What a representation says in words of the vocabulary (the Primer's section 4.3)."""
