"""Proofs: experiments as data (prompts, metric, what takes a unit out), and the sweep that runs them for candidates."""

from caseback.behaviors.proofs.experiments import EXPERIMENTS as EXPERIMENTS
from caseback.behaviors.proofs.experiments import Experiment as Experiment
from caseback.behaviors.proofs.proving import Outcome as Outcome
from caseback.behaviors.proofs.proving import prove as prove
