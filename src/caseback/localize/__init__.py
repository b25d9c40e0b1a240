"""Which inputs and which components caused a prediction (the Primer's section 3)."""
