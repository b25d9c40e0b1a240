"""Facts of the residual stream (entries 5.3.1 to 5.3.6, 5.1.11, 5.1.12), from tables and weights alone."""

from caseback.behaviors.stream.fact import Fact as Fact
from caseback.behaviors.stream.facts import STREAM_NEEDS as STREAM_NEEDS
from caseback.behaviors.stream.facts import stream_facts as stream_facts
