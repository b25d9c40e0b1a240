"""Detectors of known mechanisms: heads, neurons, stream and circuits (the Primer's section 5)."""

from caseback.behaviors import heads as heads
from caseback.behaviors import neurons as neurons
from caseback.behaviors.atlas import Atlas as Atlas
from caseback.behaviors.atlas import atlas as atlas
from caseback.behaviors.compared_atlases import AtlasComparison as AtlasComparison
from caseback.behaviors.compared_atlases import compare_atlases as compare_atlases
from caseback.behaviors.indirect_object import find_ioi_heads as find_ioi_heads
from caseback.behaviors.indirect_object import ioi_by_order as ioi_by_order
from caseback.behaviors.indirect_object import ioi_heads as ioi_heads
from caseback.behaviors.kinds import KINDS as KINDS
from caseback.behaviors.mechanisms.declared import BEHAVIORS as BEHAVIORS
from caseback.behaviors.mechanisms.facts import fact_flow as fact_flow
from caseback.behaviors.mechanisms.function_vectors import FunctionVector as FunctionVector
from caseback.behaviors.mechanisms.function_vectors import function_vector as function_vector
from caseback.behaviors.mechanisms.function_vectors import task_vector as task_vector
from caseback.behaviors.mechanisms.measure import behavior as behavior
from caseback.behaviors.mechanisms.overlap import overlap as overlap
from caseback.behaviors.mechanisms.report import BehaviorReport as BehaviorReport
from caseback.behaviors.mechanisms.role import Behavior as Behavior
from caseback.behaviors.mechanisms.role import Role as Role
from caseback.behaviors.mechanisms.transfer import function_behavior as function_behavior
from caseback.behaviors.saved_atlas import load_atlas as load_atlas
from caseback.behaviors.saved_atlas import save_atlas as save_atlas
