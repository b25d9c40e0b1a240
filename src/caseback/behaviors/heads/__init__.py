"""Heads by what they attend to and what they write (entries 5.1.1 to 5.1.12), a kind or a few of them a file."""
