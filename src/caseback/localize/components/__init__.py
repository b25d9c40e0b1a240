"""Which components caused a prediction: one technique a function (the Primer's section 3.2)."""
