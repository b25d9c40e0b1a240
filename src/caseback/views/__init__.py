"""Figures, notebook output, the terminal and the HTML report."""
