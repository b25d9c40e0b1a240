"""Prompts and what is done with several of them: pairs, copies, places, groups of tokens, baselines, masks."""
