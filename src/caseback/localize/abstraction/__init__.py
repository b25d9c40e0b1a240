"""§3.2 Causal abstraction: which high-level model a network carries out, and where its variables lie."""

from caseback.localize.abstraction.accuracy import interchange_accuracy as interchange_accuracy
from caseback.localize.abstraction.accuracy import interchange_map as interchange_map
from caseback.localize.abstraction.alignment import At as At
from caseback.localize.abstraction.boundless import boundless_das as boundless_das
from caseback.localize.abstraction.causal_gym import causal_gym as causal_gym
from caseback.localize.abstraction.causal_gym import control_task as control_task
from caseback.localize.abstraction.causal_gym import log_odds_ratio as log_odds_ratio
from caseback.localize.abstraction.causal_model import CausalModel as CausalModel
from caseback.localize.abstraction.das_map import das_map as das_map
from caseback.localize.abstraction.disentangling import disentangling as disentangling
from caseback.localize.abstraction.distributed import das as das
from caseback.localize.abstraction.entities import EntityExamples as EntityExamples
from caseback.localize.abstraction.entities import entity_examples as entity_examples
from caseback.localize.abstraction.interchanges import Interchanges as Interchanges
from caseback.localize.abstraction.masks import binary_mask as binary_mask
from caseback.localize.abstraction.ravel import ravel as ravel
from caseback.localize.abstraction.saved_subspaces import load_subspace as load_subspace
from caseback.localize.abstraction.saved_subspaces import save_subspace as save_subspace
from caseback.localize.abstraction.training_interchange import interchange_training as interchange_training
