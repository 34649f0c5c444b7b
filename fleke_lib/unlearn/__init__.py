"""Unlearning: from a classifier trained by federated averaging, and from edited language models."""
