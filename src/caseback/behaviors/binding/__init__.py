"""Binding: how a model keeps which thing belongs to whom (PRIMER 5.4.9)."""

from caseback.behaviors.binding.binding_ids import binding_ids as binding_ids
from caseback.behaviors.binding.scenes import SCENES as SCENES
from caseback.behaviors.binding.scenes import Scene as Scene
