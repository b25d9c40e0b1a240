"""Files of dictionaries: our own, and those that others publish."""
