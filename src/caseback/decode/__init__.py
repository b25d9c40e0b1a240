"""What a representation says (the Primer's section 4)."""
