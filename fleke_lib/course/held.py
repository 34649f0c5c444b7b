"""Claims on another model: an assertion that fails there is reported, and the notebook goes on.

The chapters assert what they claim. Many of these claims are measurements of the default model, and on another model
they may turn out differently, which is a result and not an error. `report_instead` makes IPython replace each
``assert condition`` of the cells that follow by a call of `claim`. An assertion with a message is a precondition
(``assert environment.ok, environment.verdict``) and stops the notebook on every model.

Claims that must hold on every model are asserted in the same way. Cells whose claims belong to the default model have
the tag `MEASURED`; `tools.run_notebooks` fails if a claim of another cell does not hold.
"""

import ast
import sys
from html import escape

MEASURED = "measured"  # the tag of a cell whose claims belong to the default model
UNHELD = "fleke_unheld"  # in an output's metadata: the condition that does not hold


def report_instead(model: str) -> None:
    """From now on, failed assertions in this notebook are reported as not held on a model of this name.

    Without IPython nothing changes. When called again, the name does.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        others = [one for one in shell.ast_transformers if not isinstance(one, _Reporting)]
        shell.ast_transformers[:] = [*others, _Reporting(model)]


def claim(holds: object, condition: str, model: str) -> None:
    """Show that a condition does not hold on a model, if so.

    Args:
        holds: the condition's value, of which only the truth counts.
        condition: its source.
        model: the model's name.
    """
    from IPython.display import display  # the library itself does not need IPython

    if holds:
        return
    sentence = f"Not held on {model}: {condition}"
    html = f'<p class="unheld">Not held on {escape(model)}: <code>{escape(condition)}</code></p>'
    display({"text/plain": sentence, "text/html": html}, raw=True, metadata={UNHELD: condition})


class _Reporting(ast.NodeTransformer):
    """Replaces ``assert condition`` by ``claim(condition, "condition", model)``."""

    def __init__(self, model: str) -> None:
        self.model = model

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if node.msg is not None:
            return node
        path = ast.parse(f"__import__({__name__!r}, fromlist=['claim']).claim", mode="eval").body
        call = ast.Call(path, [node.test, *map(ast.Constant, (ast.unparse(node.test), self.model))], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))
