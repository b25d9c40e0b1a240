"""What is readable from a representation (the Primer's section 4.1)."""

from caseback.decode.probes.linear_probe import Probe as Probe
from caseback.decode.probes.linear_probe import linear_probe as linear_probe
from caseback.decode.probes.mdl_probe import mdl_probe as mdl_probe
from caseback.decode.probes.sparse_probe import sparse_probe as sparse_probe
from caseback.decode.probes.structural_probe import StructuralProbe as StructuralProbe
from caseback.decode.probes.structural_probe import structural_probe as structural_probe
