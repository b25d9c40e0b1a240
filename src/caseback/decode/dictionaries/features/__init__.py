"""A dictionary's features as parts of a model: read, edited and looked at one by one."""
