"""The README's recipes, followed word by word: what it shows to add takes part without another file being touched."""

import json
import os
import re
import shutil
import subprocess
import symtable
import sys
from pathlib import Path

import pytest
import torch

from fleke_lib.federation.retrieval.precision import precision_recall

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
# of all methods, two: the others take minutes
FEWER = 'everyone = list(known)\nknown = {name: known[name] for name in ("MEMIT", "plain ridge")}'
TOLD = "import json\nprint(json.dumps([everyone, list(last)]))"
TABLE = "c47t"  # the cell of chapter 02 that shows all methods in numbers


def block(start: str) -> str:
    (found,) = (text for text in BLOCKS if text.startswith(start))
    return found


def needed(cells: list[str]) -> list[str]:
    """The last two cells, and before them those that bind a name which is still to be bound for a later one."""
    kept, wanted = [], set()
    for source in reversed(cells):
        top = symtable.symtable(source, "cell", "exec")
        bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        if len(kept) < 2 or bound & wanted:
            kept.append(source)
            wanted = (wanted - bound) | reads(top)
    return kept[::-1]


def reads(table: symtable.SymbolTable) -> set[str]:
    """Names of the module that are read in a cell, also within its functions."""
    here = table.get_symbols()
    own = {symbol.get_name() for symbol in here if table.get_type() == "module" or symbol.is_global()}
    return {symbol.get_name() for symbol in here if symbol.is_referenced()} & own | {
        name for inner in table.get_children() for name in reads(inner)
    }


@pytest.mark.slow
def test_a_method_appears_in_chapter_02(tmp_path):
    """A copy of the library with the README's file in it; of the chapter, what its table and its picture need."""
    shutil.copytree(ROOT / "fleke_lib", tmp_path / "fleke_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    method = block('"""MEMIT with a multiple of the identity')
    assert len(method.splitlines()) <= 30
    (tmp_path / "fleke_lib" / "edit" / "plain_ridge.py").write_text(method, encoding="utf-8")
    cells = json.loads((ROOT / "notebooks" / "02_editing.ipynb").read_text(encoding="utf-8"))["cells"]
    until = next(i for i, cell in enumerate(cells) if cell["id"] == TABLE)
    code = needed(["".join(cell["source"]) for cell in cells[: until + 1] if cell["cell_type"] == "code"])
    here = next(i for i, cell in enumerate(code) if "known = methods()" in cell)
    code.insert(here + 1, FEWER)
    script = tmp_path / "chapter.py"
    script.write_text("\n\n".join([*code, TOLD]), encoding="utf-8")
    variables = {"PYTHONPATH": str(tmp_path), "FLEKE_SCALE": "smoke", "FLEKE_FIGURES": str(tmp_path / "figures")}
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run(
        [sys.executable, script], env=os.environ | variables | threads, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    everyone, shown = json.loads(run.stdout.splitlines()[-1])
    assert "plain ridge" in everyone and len(everyone) == 9 and shown == ["MEMIT", "plain ridge"]
    drawn = json.loads((tmp_path / "figures" / "02-methods.json").read_text())["data"]["methods"]
    assert drawn["plain ridge"]["efficacy"]["mean"][-1] > 0.9  # it edits, too


def test_a_policy_chooses():
    names = {"__name__": "recipe"}
    exec(block("from dataclasses import dataclass\n"), names)
    own = torch.eye(3)[:2]
    offered = torch.tensor([[1.0, 0.2, 0.0], [0.9, 0.0, 0.5], [0.0, 0.0, 1.0]])
    chosen = names["Mutual"]().choose(own, offered)
    assert chosen.tolist() == [True, False, False]  # nearest to an own one, which is nearest to it
    assert precision_recall(chosen, torch.tensor([True, True, False])).precision == 1.0
