"""Documents of sparse dictionaries, in the terminal."""
