"""§3.1 Which inputs caused a prediction."""

from caseback.localize.inputs.gradients import gradient_norm as gradient_norm
from caseback.localize.inputs.gradients import gradient_x_input as gradient_x_input
from caseback.localize.inputs.integrated_gradients import integrated_gradients as integrated_gradients
from caseback.localize.inputs.training import Projection as Projection
from caseback.localize.inputs.training import bm25 as bm25
from caseback.localize.inputs.training import datainf as datainf
from caseback.localize.inputs.training import gradient_similarity as gradient_similarity
from caseback.localize.inputs.training import influence_functions as influence_functions
from caseback.localize.inputs.training import linear_datamodeling_score as linear_datamodeling_score
from caseback.localize.inputs.training import random_subsets as random_subsets
from caseback.localize.inputs.training import representation_similarity as representation_similarity
from caseback.localize.inputs.training import retrained_outcomes as retrained_outcomes
from caseback.localize.inputs.training import top_examples as top_examples
from caseback.localize.inputs.training import tracin as tracin
from caseback.localize.inputs.training import trak as trak
