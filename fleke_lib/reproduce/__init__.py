"""Making results again: claims and sensitivity, the figures of the course by name, and runs at the papers' scale.

`python -m fleke_lib.reproduce` lists what there is. No figure and no method has a second implementation here: figures
are made by the notebooks that show them, and runs are put together from the library.
"""
