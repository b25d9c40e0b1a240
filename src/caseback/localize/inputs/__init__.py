"""§3.1 Which inputs caused a prediction."""

from caseback.localize.inputs.gradients import gradient_norm as gradient_norm
from caseback.localize.inputs.gradients import gradient_x_input as gradient_x_input
from caseback.localize.inputs.integrated_gradients import integrated_gradients as integrated_gradients
from caseback.localize.inputs.faithfulness import faithfulness as faithfulness
from caseback.localize.inputs.faithfulness import removal_curves as removal_curves
from caseback.localize.inputs.faithfulness import soft_faithfulness as soft_faithfulness
from caseback.localize.inputs.methods import attribute as attribute
from caseback.localize.inputs.methods import input_methods as input_methods
from caseback.localize.inputs.agreement import agreement as agreement
from caseback.localize.inputs.randomisation import randomisation_test as randomisation_test
from caseback.localize.inputs.granularity import aggregate as aggregate
from caseback.localize.inputs.granularity import features_of as features_of
from caseback.localize.inputs.granularity import grouped as grouped
