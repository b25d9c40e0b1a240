"""Tables of sufficient statistics, one idea a file; ``table`` says what a table is, ``registry`` which there are."""
