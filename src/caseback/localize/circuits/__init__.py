"""§3.2 Circuits: edges between components, found, run and judged."""

from caseback.localize.circuits.completeness import completeness as completeness
from caseback.localize.circuits.curve import faithfulness_curve as faithfulness_curve
from caseback.localize.circuits.edge_attribution import edge_attribution as edge_attribution
from caseback.localize.circuits.edge_patching import patch_edges as patch_edges
from caseback.localize.circuits.edge_pruning import edge_pruning as edge_pruning
from caseback.localize.circuits.edge_pruning import subnetwork_probing as subnetwork_probing
from caseback.localize.circuits.edge_removal import acdc as acdc
from caseback.localize.circuits.faithfulness import faithfulness as faithfulness
from caseback.localize.circuits.information_flow import flow_attribution as flow_attribution
from caseback.localize.circuits.information_flow import flow_routes as flow_routes
from caseback.localize.circuits.judging import judge as judge
from caseback.localize.circuits.known import edge_roc as edge_roc
from caseback.localize.circuits.machinery.circuit_runs import mean_writes as mean_writes
from caseback.localize.circuits.machinery.sizes import circuit_size as circuit_size
from caseback.localize.circuits.methods import find_circuit as find_circuit
from caseback.localize.circuits.minimality import minimality as minimality
from caseback.localize.circuits.node_attribution import hisp as hisp
from caseback.localize.circuits.node_attribution import node_attribution as node_attribution
from caseback.localize.circuits.path_patching import path_patch as path_patch
from caseback.localize.circuits.running import run_circuit as run_circuit
from caseback.localize.circuits.scrubbing import causal_scrubbing as causal_scrubbing
from caseback.localize.circuits.selecting import select as select
from caseback.localize.circuits.shrinking import shrink as shrink
