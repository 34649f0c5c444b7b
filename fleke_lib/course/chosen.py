"""The model that the chapters run on; the only place that reads ``FLEKE_MODEL``.

``FLEKE_MODEL=name-or-folder make run`` runs chapters 00 to 06b on another model. Their texts and assertions were
written for the default one, so there an assertion that fails is reported (`fleke_lib.course.held`), and the chapter
goes on.
"""

import os
from pathlib import Path

import torch

from fleke_lib.course.held import report_instead
from fleke_lib.model import language_model, shipped
from fleke_lib.model.language_model import LanguageModel

VARIABLE = "FLEKE_MODEL"


def chosen() -> str:
    """The name or the path that ``FLEKE_MODEL`` gives, or the default model's name if it is unset or empty."""
    return os.environ.get(VARIABLE) or shipped.NAME


def another() -> str | None:
    """The name of the model that ``FLEKE_MODEL`` gives, without its folder, or None if this is the default model."""
    return None if chosen() == shipped.NAME else Path(chosen()).name


def load_model(
    source: str | Path | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a model as `fleke_lib.model.load_model` does; without a source, the one that ``FLEKE_MODEL`` names.

    If the variable names another model than the default one, assertions that fail in this notebook from now on are
    reported and stop nothing.

    Raises:
        ValueError: as `fleke_lib.model.load_model`.
    """
    lm = language_model.load_model(source or chosen(), device=device, dtype=dtype)
    model = another()
    if source is None and model:
        report_instead(model)
    return lm
