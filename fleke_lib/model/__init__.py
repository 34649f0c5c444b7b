"""The language model: loading it, its places, its tokens, its activations, what it writes."""

from fleke_lib.model.language_model import ARCHITECTURES, LanguageModel, load_model, wrap
from fleke_lib.model.presets import AlphaEditHparams, FinetuneHparams, Hparams, Preset

__all__ = [
    "ARCHITECTURES",
    "AlphaEditHparams",
    "FinetuneHparams",
    "Hparams",
    "LanguageModel",
    "Preset",
    "load_model",
    "wrap",
]
