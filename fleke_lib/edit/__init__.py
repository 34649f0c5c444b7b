"""The editing methods: `fleke.edit.memit(lm, facts)` and the others return an `Edit` and leave the model unchanged."""

from fleke_lib.edit.alphaedit import alphaedit
from fleke_lib.edit.closed_form import from_sums, trajectory
from fleke_lib.edit.edit import Applied, Edit
from fleke_lib.edit.finetune import finetune
from fleke_lib.edit.memit import memit
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.pmet import pmet
from fleke_lib.edit.rome import rome

__all__ = [
    "Applied",
    "Edit",
    "alphaedit",
    "finetune",
    "from_sums",
    "memit",
    "pmet",
    "rome",
    "second_moments",
    "trajectory",
]
