"""The published editing algorithms as in their papers and public code: reference implementations for the tests.

They process one fact, one context and one text at a time, without padding, through the whole model with full logits.
They use plain forward hooks, write full-size weights and restore them, and solve every system dense in float64. They
are slow, short and simple on purpose. Nothing here imports the library's own reading, optimisation or solving; the only
imports are the names of a model's modules (`fleke_lib.model`) and of the hyperparameters (`fleke_lib.model.presets`).
"""
