"""Directions that concepts have in a representation (the Primer's section 4.2)."""

from caseback.decode.directions.directions import Directions as Directions
from caseback.decode.directions.find import find_directions as find_directions
from caseback.decode.directions.saved_directions import load_directions as load_directions
from caseback.decode.directions.saved_directions import save_directions as save_directions
