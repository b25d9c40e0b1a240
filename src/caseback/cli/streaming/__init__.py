"""Commands that run a model over a corpus, as jobs that any number of workers join."""
