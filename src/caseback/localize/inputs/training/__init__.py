"""Which training examples caused a prediction (PRIMER 3.1.24 to 3.1.27)."""

from caseback.localize.inputs.training.datainf import datainf as datainf
from caseback.localize.inputs.training.influence import influence_functions as influence_functions
from caseback.localize.inputs.training.lookalikes import bm25 as bm25
from caseback.localize.inputs.training.lookalikes import representation_similarity as representation_similarity
from caseback.localize.inputs.training.projection import Projection as Projection
from caseback.localize.inputs.training.retraining import linear_datamodeling_score as linear_datamodeling_score
from caseback.localize.inputs.training.retraining import random_subsets as random_subsets
from caseback.localize.inputs.training.retraining import retrained_outcomes as retrained_outcomes
from caseback.localize.inputs.training.scores import top_examples as top_examples
from caseback.localize.inputs.training.simfluence import simfluence as simfluence
from caseback.localize.inputs.training.simfluence import simulated as simulated
from caseback.localize.inputs.training.tracin import gradient_similarity as gradient_similarity
from caseback.localize.inputs.training.tracin import tracin as tracin
from caseback.localize.inputs.training.trak import trak as trak
