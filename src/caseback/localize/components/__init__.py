"""§3.2 Which components caused a prediction."""

from caseback.localize.components.ablation import ablate as ablate
from caseback.localize.components.logit_attribution import logit_attribution as logit_attribution
