"""§2 of the Primer, one Hugging Face decoder made legible: where its parts are, and how it is run, read and edited."""
