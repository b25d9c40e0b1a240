"""Two models side by side on one text: which units and layers of one the other has too."""
