"""The editing methods: `fleke.edit.memit(lm, facts)` and the others return an `Edit` and leave the model unchanged."""

from fleke_lib.edit.alphaedit import alphaedit
from fleke_lib.edit.blue import blue
from fleke_lib.edit.closed_form import from_rounds, from_sums, trajectory
from fleke_lib.edit.edit import Applied, Edit
from fleke_lib.edit.emmet import emmet
from fleke_lib.edit.finetune import finetune
from fleke_lib.edit.locft_bf import locft_bf
from fleke_lib.edit.memit import memit
from fleke_lib.edit.memory import Memory, memory
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.pmet import pmet
from fleke_lib.edit.rome import rome

__all__ = [
    "Applied",
    "Edit",
    "Memory",
    "alphaedit",
    "blue",
    "emmet",
    "finetune",
    "from_rounds",
    "from_sums",
    "locft_bf",
    "memit",
    "memory",
    "pmet",
    "rome",
    "second_moments",
    "trajectory",
]
