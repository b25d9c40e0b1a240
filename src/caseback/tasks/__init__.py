"""Prompts with counterfactuals, answers and metrics."""
