"""Reproducing results: claims and sensitivity, single figures of the course, and runs at the papers' scale.

`python -m fleke_lib.reproduce` lists the commands. Nothing is implemented a second time here: the notebooks that show
the figures draw them, and all runs use the library.
"""
