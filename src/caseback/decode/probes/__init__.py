"""What is readable from a representation (the Primer's section 4.1)."""

from caseback.decode.probes.aggregate import aggregate as aggregate
from caseback.decode.probes.attention_probe import AttentionProbe as AttentionProbe
from caseback.decode.probes.attention_probe import attention_probe as attention_probe
from caseback.decode.probes.baselines import probe_baselines as probe_baselines
from caseback.decode.probes.information_gain import information_gain as information_gain
from caseback.decode.probes.layer_profile import layer_profile as layer_profile
from caseback.decode.probes.linear_probe import Probe as Probe
from caseback.decode.probes.linear_probe import linear_probe as linear_probe
from caseback.decode.probes.mdl_probe import mdl_probe as mdl_probe
from caseback.decode.probes.mlp_probe import mlp_probe as mlp_probe
from caseback.decode.probes.saved_probes import load_probe as load_probe
from caseback.decode.probes.saved_probes import save_probe as save_probe
from caseback.decode.probes.sparse_probe import sparse_probe as sparse_probe
from caseback.decode.probes.structural_probe import StructuralProbe as StructuralProbe
from caseback.decode.probes.structural_probe import structural_probe as structural_probe
