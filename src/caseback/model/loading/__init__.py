"""A folder, a hub id, an adapter or a model in memory becomes a verified ``Model``."""
