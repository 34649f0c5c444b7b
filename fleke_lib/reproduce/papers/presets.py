"""Which runs there are: a model, a data set, and the federation of the paper.

Source of the federation: the defaults of the FLEKE paper's public code (arXiv 2502.15677, zongkaiz/FLEKE): 8 clients,
10 slots, tau 0.4. Hyperparameters of a model are in `fleke_lib.model.presets`, with their sources. The sizes here are
those of the models' published configurations, so that a run's cost can be counted before anything is fetched.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformers import GPT2Config, GPTJConfig, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.model import shipped
from fleke_lib.model.presets import PRESETS, Hparams, Preset

Dataset = Literal["counterfact", "zsre"]
DATASETS: tuple[Dataset, ...] = ("counterfact", "zsre")


@dataclass(frozen=True)
class PaperPreset:
    """One run.

    model: a name that `load_model` knows. preset: its key in `PRESETS`. config: its published configuration.
    dataset: which facts, and with it which rule says who holds what (see `papers.parts`).
    facts: how many at most. clients, slots, tau: of the federation.
    """

    name: str
    model: str
    preset: str
    dataset: Dataset
    config: PretrainedConfig = field(repr=False)
    facts: int = 10_000
    clients: int = 8
    slots: int = 10
    tau: float = 0.4

    @property
    def hparams(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def memit(self) -> Hparams:
        return self.hparams.memit

    @property
    def lam(self) -> float:
        """The weight of C for the closed form: tuned for the default model, for any other MEMIT's own."""
        return lambda_of(self.hparams)


def recipe(name: str) -> PaperPreset:
    """The recipe of this name. Raises ValueError with all names where there is none."""
    if name not in RECIPES:
        raise ValueError(f"there is no run {name!r}: give one of {', '.join(RECIPES)}.")
    return RECIPES[name]


_MODELS: dict[str, tuple[str, str, PretrainedConfig]] = {
    "gpt-j": ("EleutherAI/gpt-j-6b", "gpt-j-6b", GPTJConfig()),
    "gpt-neox": ("EleutherAI/gpt-neox-20b", "gpt-neox-20b", GPTNeoXConfig()),
    "llama-3-8b": (
        "meta-llama/Meta-Llama-3-8B",
        "llama-3-8b",
        LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
    ),
    "gpt2-xl": ("openai-community/gpt2-xl", "gpt2-xl", GPT2Config(n_embd=1600, n_layer=48, n_head=25)),
    "smollm2": (
        shipped.NAME,
        shipped.NAME.lower(),
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
    ),
}
RECIPES = {
    f"{short}-{dataset}": PaperPreset(f"{short}-{dataset}", model, preset, dataset, config)
    for short, (model, preset, config) in _MODELS.items()
    for dataset in DATASETS
}
