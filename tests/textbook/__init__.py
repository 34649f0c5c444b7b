"""The published editing algorithms as their papers and public code state them: the oracles of the fast library.

One fact, one context and one text at a time, without padding, through the whole model with full logits; ordinary
forward hooks; full-size weight writes that are taken back; every solve dense and in float64. Slow, short and plain on
purpose. Nothing here imports the library's own reading, optimisation or solving, only the names of a model's parts
(`fleke_lib.model`) and of the hyperparameters (`fleke_lib.model.presets`).
"""
