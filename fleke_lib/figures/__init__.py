"""All figures of the course: one module per chapter, one function per figure.

A function takes results and returns a `Picture`: the image, a caption, a description in words, and the plotted numbers.
"""

from fleke_lib.figures.style import Picture

__all__ = ["Picture"]
