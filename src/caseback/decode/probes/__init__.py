"""What is readable from a representation (the Primer's section 4.1)."""

from caseback.decode.probes.linear_probe import Probe as Probe
from caseback.decode.probes.linear_probe import linear_probe as linear_probe
