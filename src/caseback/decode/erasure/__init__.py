"""Taking a concept out of representations, and what the model does without it (the Primer's 4.2.4 to 4.2.8)."""

from caseback.decode.erasure.amnesic import amnesic as amnesic
from caseback.decode.erasure.eraser import Eraser as Eraser
from caseback.decode.erasure.inlp import inlp as inlp
from caseback.decode.erasure.leace import leace as leace
from caseback.decode.erasure.oracle import OracleEraser as OracleEraser
from caseback.decode.erasure.oracle import oracle_leace as oracle_leace
from caseback.decode.erasure.orthogonal import mean_projection as mean_projection
from caseback.decode.erasure.orthogonal import sal as sal
from caseback.decode.erasure.quadratic import QuadraticEraser as QuadraticEraser
from caseback.decode.erasure.quadratic import quadratic_leace as quadratic_leace
from caseback.decode.erasure.rlace import rlace as rlace
from caseback.decode.erasure.saved_erasers import load_eraser as load_eraser
from caseback.decode.erasure.saved_erasers import load_oracle_eraser as load_oracle_eraser
from caseback.decode.erasure.saved_erasers import save_eraser as save_eraser
from caseback.decode.erasure.scrub import scrub as scrub
from caseback.decode.erasure.target_moments import TargetMoments as TargetMoments
from caseback.decode.erasure.target_moments import target_moments as target_moments
