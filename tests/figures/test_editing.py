"""The figures of chapter 02 say how many facts an edit has, which is not how many were asked."""

import numpy as np

from fleke_lib.evaluation.results import METRICS, Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.figures.editing import curves


def measured(value: float, facts: int) -> Evaluation:
    asked = tuple(Fact(f"S{i}", "The {} is", "a", "b") for i in range(facts))
    return Evaluation(asked, {name: np.full(facts, value) for name in METRICS})


def test_the_words_name_the_greatest_edit_and_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))
    results = {"MEMIT": {10: measured(0.9, 10), 591: measured(0.7, 80)}, "ROME": {10: measured(0.6, 10)}}
    alt = curves(results, measured(0.1, 80), "curves").alt
    assert "MEMIT with 591 facts in one edit: efficacy 0.70, paraphrase 0.70, specificity 0.70" in alt
    assert "ROME with 10 facts in one edit: efficacy 0.60" in alt
