"""Commands of dictionaries."""
