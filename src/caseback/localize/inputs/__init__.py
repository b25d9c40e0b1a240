"""Which inputs caused a prediction: one technique a function (the Primer's section 3.1)."""
