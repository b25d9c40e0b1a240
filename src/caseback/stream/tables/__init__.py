"""Tables of sufficient statistics, one idea a file; ``table`` says what a table is."""
