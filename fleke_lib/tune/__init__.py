"""Choosing the edited layers, lambda and the clamp for a model from evidence, on facts that no table reports."""

from fleke_lib.tune.choosing import Trial, Tuning, choose

__all__ = ["Trial", "Tuning", "choose"]
