"""Work that can take long: files written whole or not at all."""
