"""§4.3 Decoding in vocabulary space."""

from caseback.decode.vocabulary import activating as activating
from caseback.decode.vocabulary.contrast_decoding import contrastive_decoding as contrastive_decoding
from caseback.decode.vocabulary.contrast_decoding import dola as dola
from caseback.decode.vocabulary.jacobian_lens import fit_jacobian_lens as fit_jacobian_lens
from caseback.decode.vocabulary.lens import Lens as Lens
from caseback.decode.vocabulary.lens import read_lens as read_lens
from caseback.decode.vocabulary.lens_files import load_jacobian_lens as load_jacobian_lens
from caseback.decode.vocabulary.lens_files import load_lens as load_lens
from caseback.decode.vocabulary.lens_files import load_tuned_lens as load_tuned_lens
from caseback.decode.vocabulary.lens_files import merge_jacobian_lenses as merge_jacobian_lenses
from caseback.decode.vocabulary.lens_files import save_jacobian_lens as save_jacobian_lens
from caseback.decode.vocabulary.lens_files import save_lens as save_lens
from caseback.decode.vocabulary.lens_files import save_tuned_lens as save_tuned_lens
from caseback.decode.vocabulary.lens_quality import lens_quality as lens_quality
from caseback.decode.vocabulary.logit_lens import logit_lens as logit_lens
from caseback.decode.vocabulary.translators import fit_future_lens as fit_future_lens
from caseback.decode.vocabulary.translators import fit_translators as fit_translators
from caseback.decode.vocabulary.tuned_lens import fit_tuned_lens as fit_tuned_lens
