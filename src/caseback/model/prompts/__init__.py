"""Prompts beside each other: pairs, copies, places, groups of tokens, baselines, masks."""
