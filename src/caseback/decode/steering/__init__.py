"""Steering: what a model does when something is added to, taken from or learned for its representations."""

from caseback.decode.steering.ablation import directional_ablation as directional_ablation
from caseback.decode.steering.ablation import orthogonalized as orthogonalized
from caseback.decode.steering.conditional import Condition as Condition
from caseback.decode.steering.conditional import conditional as conditional
from caseback.decode.steering.conditional import find_condition as find_condition
from caseback.decode.steering.dose import dose_response as dose_response
from caseback.decode.steering.inference_time import LAST_TOKEN as LAST_TOKEN
from caseback.decode.steering.inference_time import inference_time_intervention as inference_time_intervention
from caseback.decode.steering.persona import TraitJudge as TraitJudge
from caseback.decode.steering.persona import persona_vector as persona_vector
from caseback.decode.steering.proxies import steering_scores as steering_scores
from caseback.decode.steering.pyreft_files import load_pyreft as load_pyreft
from caseback.decode.steering.reft import ReFT as ReFT
from caseback.decode.steering.reft import fit_reft as fit_reft
from caseback.decode.steering.saved_reft import load_reft as load_reft
from caseback.decode.steering.saved_reft import save_reft as save_reft
from caseback.decode.steering.transport import transport as transport
from caseback.decode.steering.vectors import activation_addition as activation_addition
from caseback.decode.steering.vectors import contrastive_addition as contrastive_addition
