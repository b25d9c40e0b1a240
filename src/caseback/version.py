"""The version, alone in a file.

The build reads it here, and inner modules import it without importing the whole package's face.
"""

__version__ = "0.1.0"
