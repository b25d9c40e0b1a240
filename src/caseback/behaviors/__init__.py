"""Detectors of known mechanisms: heads, neurons, stream and circuits (the Primer's section 5)."""

from caseback.behaviors.atlas import Atlas as Atlas
from caseback.behaviors.atlas import atlas as atlas
from caseback.behaviors.heads import positional as positional
from caseback.behaviors.heads import repeats as repeats
from caseback.behaviors.heads import sinks as sinks
from caseback.behaviors.heads import vocabulary as vocabulary
from caseback.behaviors.indirect_object import find_ioi_heads as find_ioi_heads
from caseback.behaviors.indirect_object import ioi_by_order as ioi_by_order
from caseback.behaviors.indirect_object import ioi_heads as ioi_heads
from caseback.behaviors.kinds import KINDS as KINDS
