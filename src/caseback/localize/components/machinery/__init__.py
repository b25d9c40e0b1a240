"""What techniques on components share, below them."""
