"""§4.3 Decoding in vocabulary space."""

from caseback.decode.vocabulary.logit_lens import logit_lens as logit_lens
