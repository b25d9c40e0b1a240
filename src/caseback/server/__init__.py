"""The explorer: one model, asked through a browser or a program. Needs the extra ``explorer``."""
