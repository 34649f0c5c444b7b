"""The language model: loading, named modules, tokens, activations, generation and hyperparameter presets."""

from fleke_lib.model.activations import record, rewrite
from fleke_lib.model.language_model import ARCHITECTURES, LanguageModel, load_model, wrap
from fleke_lib.model.presets import (
    AlphaEditHparams,
    FinetuneHparams,
    Hparams,
    NormalisedGradient,
    Preset,
    preset_for,
)
from fleke_lib.model.tokens import encode

__all__ = [
    "ARCHITECTURES",
    "AlphaEditHparams",
    "FinetuneHparams",
    "Hparams",
    "LanguageModel",
    "NormalisedGradient",
    "Preset",
    "encode",
    "load_model",
    "preset_for",
    "record",
    "rewrite",
    "wrap",
]
