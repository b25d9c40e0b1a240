"""§3.1 Which inputs caused a prediction."""

from caseback.localize.inputs.gradients import gradient_norm as gradient_norm
from caseback.localize.inputs.gradients import gradient_x_input as gradient_x_input
from caseback.localize.inputs.integrated_gradients import integrated_gradients as integrated_gradients
from caseback.localize.inputs.granularity import aggregate as aggregate
from caseback.localize.inputs.granularity import features_of as features_of
from caseback.localize.inputs.granularity import grouped as grouped
