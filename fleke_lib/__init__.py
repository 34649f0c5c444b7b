"""Federated knowledge editing: locate a fact in a language model, change it, share the change, and withdraw it."""

from fleke_lib import edit
from fleke_lib.course.chosen import load_model
from fleke_lib.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.trajectories import Trajectory, shareable, trajectories
from fleke_lib.evaluation.known import known_facts
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import Facts, load_facts
from fleke_lib.locate.tracing import causal_trace
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.model.language_model import LanguageModel

__all__ = [
    "Edit",
    "Fact",
    "Facts",
    "LanguageModel",
    "Mkv",
    "Trajectory",
    "causal_trace",
    "compute_mkvs",
    "edit",
    "evaluate",
    "known_facts",
    "load_facts",
    "load_model",
    "second_moments",
    "shareable",
    "trajectories",
]
