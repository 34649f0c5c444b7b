"""How well a model answers: likelihoods of answers, the metrics of an edit, and results with bootstrap intervals."""

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
    "PreparedEvaluation",
    "bootstrap",
    "difference",
    "evaluate",
    "free_decoding",
    "generation_quality",
    "harmonic_mean",
    "known_facts",
    "log_probs",
    "prepare_evaluation",
]
