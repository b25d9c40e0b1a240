"""Detectors of known mechanisms: heads, neurons, stream and circuits (the Primer's section 5)."""

from caseback.behaviors.indirect_object import find_ioi_heads as find_ioi_heads
from caseback.behaviors.indirect_object import ioi_by_order as ioi_by_order
from caseback.behaviors.indirect_object import ioi_heads as ioi_heads
