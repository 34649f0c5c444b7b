"""Claims on another model: an assertion that fails there is reported, and the notebook goes on.

The chapters assert what they claim. Many of these claims are measurements of the default model, and on another model
they may turn out differently, which is a result and not an error. `report_instead` makes IPython replace each
``assert condition`` of the cells that follow by a call of `claim`. An assertion with a message is a precondition
(``assert environment.ok, environment.verdict``) and stops the notebook on every model. Where a cell's last line shows a
ratio of measured numbers whose denominator is zero there, this is reported as well.

Claims that must hold on every model are asserted in the same way. Cells whose claims belong to the default model have
the tag `MEASURED`; `tools.run_notebooks` fails if a claim of another cell does not hold.
"""

import ast
import sys
from collections.abc import Callable
from html import escape
from typing import Any

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
    """Show that a condition does not hold on this model, if so.

    Args:
        holds: the condition's value, of which only the truth counts.
        condition: its source.
        model: the model's name.
    """
    if not holds:
        _show(f"Not held on {model}", condition, {UNHELD: condition})


def shown(value: Callable[[], Any], source: str, model: str) -> Any:
    """The value of a cell's last line; where it divides by zero, this is shown instead.

    Args:
        value: computes it.
        source: its source.
        model: the model's name.
    """
    try:
        return value()
    except ZeroDivisionError:
        _show(f"Not defined on {model}, where it divides by zero", source, {})
        return None


def _show(what: str, source: str, about: dict) -> None:
    from IPython.display import display  # the library itself does not need IPython

    html = f'<p class="unheld">{escape(what)}: <code>{escape(source)}</code></p>'
    display({"text/plain": f"{what}: {source}", "text/html": html}, raw=True, metadata=about)


class _Reporting(ast.NodeTransformer):
    """Puts ``claim(condition, "condition")`` for an assertion, and ``shown(lambda: line, "line")`` for a last line.

    Both are also given the model's name.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    def visit_Module(self, node: ast.Module) -> ast.AST:
        last = node.body[-1] if node.body else None  # before assertions become expressions
        self.generic_visit(node)
        if isinstance(last, ast.Expr) and not any(isinstance(part, ast.Await) for part in ast.walk(last)):
            nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
            node.body[-1] = self._call("shown", ast.Lambda(nothing, last.value), last.value, last)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node if node.msg is not None else self._call("claim", node.test, node.test, node)

    def _call(self, name: str, argument: ast.expr, source: ast.expr, at: ast.stmt) -> ast.stmt:
        """The statement that calls a function of this module with an argument, a source as text, and the model."""
        function = ast.parse(f"__import__({__name__!r}, fromlist=[{name!r}]).{name}", mode="eval").body
        call = ast.Call(function, [argument, ast.Constant(ast.unparse(source)), ast.Constant(self.model)], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), at))
