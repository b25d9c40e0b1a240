"""Documents of sparse dictionaries: training, measures, features, what they do on a prompt."""
