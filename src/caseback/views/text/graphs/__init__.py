"""Graphs and circuits of features in the terminal."""
