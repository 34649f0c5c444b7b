"""The number of claims that a notebook asserts: its ``assert`` statements, counted in the syntax tree."""

import ast

from IPython.core.inputtransformer2 import TransformerManager


def asserted_claims(source: str) -> int:
    """The number of ``assert`` statements in a code cell; magics are allowed, and other languages count zero."""
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return 0
    return sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
