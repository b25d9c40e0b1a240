"""The table of how objects show themselves, for views, which import no model."""

from __future__ import annotations

from caseback.model.display import displays as displays
from caseback.model.display import drawer_of as drawer_of
