"""Which freely written texts count as an answer, in all scripts."""

from dataclasses import replace

import numpy as np
import pytest

from fleke_lib.evaluation.metrics import free_decoding, generation_quality, ngram_entropy
from fleke_lib.model import generation
from tests.evaluation.test_metrics import FRANCE
from tests.tiny import tiny


def test_free_decoding_compares_words(monkeypatch):
    texts = [" rome, the city.", " Romeo", " Paris, not Rome", " Nowhere"]
    monkeypatch.setattr(generation, "greedy", lambda lm, prompts, tokens: texts)
    found = free_decoding(tiny("gpt2"), [FRANCE] * 4)
    assert found.per_fact["says"].tolist() == [1, 0, 0, 0]
    assert found.per_fact["mentions"].tolist() == [1, 0, 1, 0]
    assert found.texts[1] == (" Romeo",)
    monkeypatch.setattr(generation, "greedy", lambda lm, prompts, tokens: [" United Kingdom.", " +"])
    articles, symbol = replace(FRANCE, target_new="the United Kingdom"), replace(FRANCE, target_new="+")
    assert free_decoding(tiny("gpt2"), [articles, symbol]).says == 1


@pytest.mark.parametrize(
    ("text", "answer", "says", "mentions"),
    [
        (" 北京是首都", "北京", 1, 1),
        (" 首都是北京。", "北京", 0, 1),
        (" 東京です", "東京", 1, 1),
        (" ローマです", "ローマ", 1, 1),
        (" 서울은 수도", "서울", 1, 1),
        (" กรุงเทพเป็นเมืองหลวง", "กรุงเทพ", 1, 1),
        (" กรุงเทพ", "กรุง", 1, 1),
        (" กุ", "ก", 0, 0),  # a vowel belongs to its letter
        (" हिन्दी", "हिन", 0, 0),  # the same in a script with blanks
        (" C++ of course", "C#", 0, 0),
        (" C++ of course", "C", 0, 0),
        (" C++, of course", "c++", 1, 1),
        (" In C#.", "C#", 0, 1),
        (" 1+1", "1", 1, 1),
        (" -5 degrees", "5", 0, 0),
        (" −5 degrees", "-5", 1, 1),
        (" 5 degrees", "-5", 0, 0),
        (" 1939-45", "45", 0, 1),
        (" 3.5 metres", "3", 0, 0),
        (" 3. Then", "3", 1, 1),
        (" A is the vitamin", "A", 1, 1),
        (" It is A.", "A", 0, 1),
        (" It is a vitamin", "A", 0, 0),
        (" Vitamin C", "Vitamin A", 0, 0),
        (" the vitamin a", "Vitamin A", 1, 1),
        (" Lord of Rings", "The Lord of the Rings", 1, 1),
        (" the lord of the rings", "Lord of Rings", 1, 1),
        (" 🙂 yes", "🙂", 1, 1),
        (" ❤\ufe0f", "❤", 1, 1),
        (" yes 🙂", "🙂", 0, 1),
        (" **Rome**", "Rome", 1, 1),
        (" Zoe\u0308", "Zoë", 1, 1),
        ("", "Rome", 0, 0),
    ],
)
def test_what_counts_as_the_answer(text, answer, says, mentions, monkeypatch):
    monkeypatch.setattr(generation, "greedy", lambda lm, prompts, tokens: [text])
    found = free_decoding(tiny("gpt2"), [replace(FRANCE, target_new=answer)])
    assert (found.says, found.mentions) == (says, mentions)


def test_text_in_a_script_without_blanks_has_entropy_and_consistency(monkeypatch):
    assert ngram_entropy("北京是首都") == ngram_entropy("b j s s2 d") > 0
    monkeypatch.setattr(generation, "sample", lambda lm, prompts, tokens, seed: ["北京是首都" for _ in prompts])
    found = generation_quality(tiny("gpt2"), [FRANCE], references={("P36", "Rome"): ["首都是北京"]})
    assert found.consistency > 0.5
    found = generation_quality(tiny("gpt2"), [FRANCE], references={("P36", "Rome"): ["a"]})  # no term to compare
    assert np.isnan(found.consistency)
