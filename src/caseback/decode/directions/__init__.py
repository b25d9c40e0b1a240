"""Directions that concepts have in a representation (the Primer's section 4.2)."""

from caseback.decode.directions.agreement import direction_agreement as direction_agreement
from caseback.decode.directions.agreement import place_agreement as place_agreement
from caseback.decode.directions.consistent import Consistent as Consistent
from caseback.decode.directions.consistent import consistent_directions as consistent_directions
from caseback.decode.directions.control_vectors import load_control_vector as load_control_vector
from caseback.decode.directions.control_vectors import load_tensor_directions as load_tensor_directions
from caseback.decode.directions.control_vectors import save_control_vector as save_control_vector
from caseback.decode.directions.directions import Directions as Directions
from caseback.decode.directions.find import find_directions as find_directions
from caseback.decode.directions.from_moments import directions_from_moments as directions_from_moments
from caseback.decode.directions.saved_directions import load_directions as load_directions
from caseback.decode.directions.saved_directions import save_directions as save_directions
from caseback.decode.directions.subspaces import concept_subspace as concept_subspace
from caseback.decode.directions.tcav import tcav as tcav
from caseback.decode.directions.words import analogy as analogy
from caseback.decode.directions.words import causal_inner_product as causal_inner_product
from caseback.decode.directions.words import word_direction as word_direction
