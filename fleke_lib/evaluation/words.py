"""The words of a text and of an answer, for comparing what a model writes freely with what it should write.

A word is a run of letters, digits and the marks on them. Two things that only signs tell apart are two words: "C", "C#"
and "C++", "5" and "-5", "3" and "3.5". In scripts without blanks between words, such as Chinese, Japanese, Thai and
Khmer, and in Korean, where endings follow a word without a blank, every character is a word. An answer without words,
such as "+" or "🙂", is compared sign by sign.
"""

import re
import unicodedata
from collections.abc import Sequence

# Thai to Burmese, Korean letters, Khmer, the signs and syllables of Japanese, Chinese characters, Korean syllables
UNSPACED = "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
ARTICLES = ("a", "an", "the")

# in a text's outline: w a letter, d a digit, m a mark, o a character of an unspaced script, other signs as they are
_WORD = r"(?:(?<![wdmo])-(?=d))?[wd](?:[wdm]|(?<=d)[.,](?=d))*(?:(?:\+{1,2}|#)(?![wdo+#]))?|om*"


def begins(text: str, answer: str) -> bool:
    """Whether the text begins with the answer, word by word; case, punctuation and articles do not count."""
    said, wanted = _compared(text, answer)
    return _follows(said, wanted)


def contains(text: str, answer: str) -> bool:
    """Whether the answer is somewhere in the text, compared as in `begins`."""
    said, wanted = _compared(text, answer)
    return any(_follows(said[i:], wanted) for i in range(len(said)))


def words(text: str, signs: bool = False) -> list[str]:
    """The words of a text; with `signs`, all other visible characters too."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\ufe0f", "")  # minus; emoji selector
    outline = "".join(map(_outline, plain))
    return [plain[found.start() : found.end()] for found in re.finditer(_WORD + r"|[^ ]" * signs, outline)]


def _compared(text: str, answer: str) -> tuple[list[str], list[str]]:
    """The words to compare. An answer that is an article's word, such as the vitamin "A", is compared with its case."""
    wanted = words(answer)
    signs = not wanted
    wanted = wanted or words(answer, signs)
    wanted = [word for i, word in enumerate(wanted) if i == len(wanted) - 1 or word.casefold() not in ARTICLES]
    if len(wanted) == 1 and wanted[0].casefold() in ARTICLES:
        return words(text), wanted
    return [word.casefold() for word in words(text, signs)], [word.casefold() for word in wanted]


def _follows(said: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether `said` begins with all words of `wanted`; articles between them are skipped."""
    rest = iter(said)
    for word in wanted:
        if next((own for own in rest if own == word or own.casefold() not in ARTICLES), None) != word:
            return False
    return True


def _outline(character: str) -> str:
    if re.match(f"[{UNSPACED}]", character):
        return "m" if unicodedata.category(character)[0] == "M" else "o" if character.isalnum() else "s"
    kinds = ((str.isdecimal, "d"), (str.isalnum, "w"), (str.isspace, " "))
    found = next((kind for holds, kind in kinds if holds(character)), "")
    if found or character in "-+#.,":
        return found or character
    return "w" if character == "_" else "m" if unicodedata.category(character)[0] == "M" else "s"
