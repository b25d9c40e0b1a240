"""§3.2 Circuits: edges between components, found, run and judged."""

from caseback.localize.circuits.edge_attribution import edge_attribution as edge_attribution
from caseback.localize.circuits.edge_removal import acdc as acdc
from caseback.localize.circuits.path_patching import path_patch as path_patch
from caseback.localize.circuits.running import run_circuit as run_circuit
from caseback.localize.circuits.selecting import select as select
