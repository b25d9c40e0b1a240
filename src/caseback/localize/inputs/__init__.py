"""§3.1 Which inputs caused a prediction."""

from caseback.localize.inputs.discretized_ig import discretized_integrated_gradients as discretized_integrated_gradients
from caseback.localize.inputs.gradients import gradient_norm as gradient_norm
from caseback.localize.inputs.gradients import gradient_x_input as gradient_x_input
from caseback.localize.inputs.integrated_gradients import integrated_gradients as integrated_gradients
from caseback.localize.inputs.relevance import attn_lrp as attn_lrp
from caseback.localize.inputs.relevance import conservative_propagation as conservative_propagation
from caseback.localize.inputs.relevance import lrp_epsilon as lrp_epsilon
from caseback.localize.inputs.sequential_ig import sequential_integrated_gradients as sequential_integrated_gradients
from caseback.localize.inputs.site_relevance import site_relevance as site_relevance
from caseback.localize.inputs.smoothgrad import smoothgrad as smoothgrad
