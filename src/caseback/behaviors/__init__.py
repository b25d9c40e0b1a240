"""Detectors of known mechanisms: heads, neurons, stream and circuits (the Primer's section 5)."""

from caseback.behaviors import heads as heads
from caseback.behaviors import neurons as neurons
from caseback.behaviors.atlas import Atlas as Atlas
from caseback.behaviors.atlas import atlas as atlas
from caseback.behaviors.indirect_object import find_ioi_heads as find_ioi_heads
from caseback.behaviors.indirect_object import ioi_by_order as ioi_by_order
from caseback.behaviors.indirect_object import ioi_heads as ioi_heads
from caseback.behaviors.kinds import KINDS as KINDS
from caseback.behaviors.saved_atlas import load_atlas as load_atlas
from caseback.behaviors.saved_atlas import save_atlas as save_atlas
