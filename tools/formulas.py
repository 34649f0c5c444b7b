"""LaTeX formulas to MathML, which browsers render and screen readers speak without script or network."""

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

# Commands that the converter lacks, expressed by ones that it has.
REWRITES = (
    (re.compile(r"\\(begin|end)\{aligned\}"), r"\\\1{split}"),
    (re.compile(r"\\(arg|argmin|argmax)(?![a-zA-Z])"), r"\\operatorname{\1}"),
    (re.compile(r"\\!"), r"\\hspace{-0.17em}"),
)
# The converter outputs unknown commands as text; this finds them.
LEFTOVER = re.compile(r">\s*(\\[a-zA-Z]+)")


def mathml(latex: str, display: bool) -> str:
    """The ``<math>`` element for a formula, displayed or inline.

    Raises ``ValueError``, which names the formula, if the converter does not know a command in it.
    """
    text = latex.strip()
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    try:
        element = convert(text, display="block" if display else "inline")
        ElementTree.fromstring(element)
    except Exception as error:
        raise ValueError(
            f"the formula {latex.strip()!r} does not convert to MathML: write it in simpler LaTeX."
        ) from error
    if unknown := LEFTOVER.search(element):
        raise ValueError(
            f"the formula {latex.strip()!r} uses {unknown[1]}, which has no MathML here: write it with another command."
        )
    return element
