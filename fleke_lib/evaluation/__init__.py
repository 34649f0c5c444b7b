"""How well a model answers: likelihoods, the metrics of an edit, its harm elsewhere, and bootstrap intervals."""

from fleke_lib.evaluation.harm import Harm, HarmReference, prepare_harm
from fleke_lib.evaluation.in_context import TextMemory, evaluate_with_text, tuned_threshold
from fleke_lib.evaluation.known import known_facts
from fleke_lib.evaluation.likelihood import log_probs
from fleke_lib.evaluation.metrics import (
    PreparedEvaluation,
    evaluate,
    free_decoding,
    generation_quality,
    prepare_evaluation,
)
from fleke_lib.evaluation.resampling import bootstrap
from fleke_lib.evaluation.results import METRICS, Evaluation, difference, harmonic_mean

__all__ = [
    "METRICS",
    "Evaluation",
    "Harm",
    "HarmReference",
    "PreparedEvaluation",
    "TextMemory",
    "bootstrap",
    "difference",
    "evaluate",
    "evaluate_with_text",
    "free_decoding",
    "generation_quality",
    "harmonic_mean",
    "known_facts",
    "log_probs",
    "prepare_evaluation",
    "prepare_harm",
    "tuned_threshold",
]
