"""Neurons by what they fire on and what they write (entries 5.2.1 to 5.2.18), a kind or a few of them a file."""
