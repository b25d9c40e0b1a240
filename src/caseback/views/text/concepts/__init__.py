"""Probes, erasers and steering in the terminal."""
