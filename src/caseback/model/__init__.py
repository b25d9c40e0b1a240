"""§2 of the Primer: one Hugging Face decoder made legible: where its parts are, running it, reading it, editing it."""
