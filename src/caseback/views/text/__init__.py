"""Documents as text in a terminal."""
