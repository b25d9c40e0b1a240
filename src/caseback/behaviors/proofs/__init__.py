"""Proofs: experiments as data (prompts, metric, what takes a unit out), and the sweep that runs them for candidates."""
