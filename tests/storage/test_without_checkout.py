"""The package's code alone, without its data: one sentence says what is missing, and the rest works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fleke_lib

PROGRAM = """
import torch
from fleke_lib.edit import Edit, memit
from fleke_lib.edit.moments import sample_text, second_moments
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.figures import style
from fleke_lib.figures.catalogue import catalogue
from fleke_lib.mkv.edit_map import shipped_map
from fleke_lib.mkv.store import shipped_mkvs, stored_mkvs
from fleke_lib.reproduce.record import FOLDER, Record
from tests.textbook.samples import CONTEXTS, FACTS, HPARAMS
from tests.tiny import tiny

lm = tiny("llama")
needs = {
    "sample_text": sample_text,
    "second_moments": lambda: second_moments(lm),
    "memit": lambda: memit(lm, FACTS[:1], contexts=CONTEXTS, hparams=HPARAMS),
    "Rules": lambda: Rules.of(lm),
    "load_facts": load_facts,
    "shipped_map": lambda: shipped_map(lm),
    "shipped_mkvs": lambda: shipped_mkvs(lm, FACTS[:1]),
    "Record": lambda: Record.load(FOLDER / "claims.json"),
    "catalogue": catalogue,
}
for name, call in needs.items():
    try:
        call()
        print(name, "was not refused")
    except FileNotFoundError as error:
        if "checkout of the repository" not in str(error) or "\\n" in str(error):
            print(name, "says", error)
stored_mkvs(lm, FACTS[:1], contexts=CONTEXTS, hparams=HPARAMS)
print(style.folder())
"""


@pytest.mark.slow
def test_what_needs_the_repository_says_so(tmp_path):
    package = Path(fleke_lib.__file__).parent
    for source in (package, Path(__file__).parents[1] / "textbook", Path(__file__).parents[1] / "tiny.py"):
        target = tmp_path / "site" / source.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    here = tmp_path / "here"
    here.mkdir()
    environment = {"PYTHONPATH": str(tmp_path / "site"), "FLEKE_CACHE": str(tmp_path / "cache"), "FLEKE_FIGURES": ""}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        cwd=here,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n") == [str(here.resolve() / "build" / "figures"), ""]
