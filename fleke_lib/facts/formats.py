"""Readers for the JSON schemas in which facts are published, one for each schema.

A reader converts one record to the fields of a `Fact`; neighbours are pairs (prompt, answer). It raises ValueError with
the reason if it cannot read the record. `read` chooses the reader by the record's keys, not by the file's name.

| schema | recognised by the keys | source |
|---|---|---|
| CounterFact, multi-CounterFact | `requested_rewrite` | Meng et al., ROME (2202.05262) and MEMIT (2210.07229) |
| flattened CounterFact | `prompt`, `subject`, `target_new`, `ground_truth` | EasyEdit |
| zsRE | `src`, `subject`, `alt` | Mitchell et al., MEND (2110.11309) |
"""

import unicodedata

from fleke_lib.facts.fact import normal_form


def read(record: dict) -> dict:
    """The fields of one record of any of the schemas. Raises ValueError with the reason if it cannot be read."""
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, not {type(record).__name__}")
    for keys, reader in READERS.items():
        if record.keys() >= set(keys):
            return reader(record)
    raise ValueError(f"its keys ({', '.join(map(str, record)) or 'none'}) are those of none of the schemas")


def is_known(record: object) -> bool:
    """Whether the record is a JSON object with the keys of one of the schemas."""
    return isinstance(record, dict) and any(record.keys() >= set(keys) for keys in READERS)


def counterfact(record: dict) -> dict:
    """One record of CounterFact or multi-CounterFact.

    The neighbours of a fact are prompts about other subjects with the same true answer, so `target_true` is also their
    answer. A file may give each neighbour its own answer in `neighborhood_targets`, as the atlas does. Attribute
    prompts are not used.
    """
    rewrite = record["requested_rewrite"]
    if not isinstance(rewrite, dict):
        raise ValueError("requested_rewrite must hold one rewrite")
    subject, template = _text(rewrite, "subject"), _text(rewrite, "prompt")
    if "{}" not in template:
        subject, template = to_template(template, subject)
    true = _answer(rewrite, "target_true")
    prompts = _texts(record, "neighborhood_prompts")
    targets = _texts(record, "neighborhood_targets") if "neighborhood_targets" in record else [true] * len(prompts)
    return {
        "subject": subject,
        "prompt": template,
        "target_new": _answer(rewrite, "target_new"),
        "target_true": true,
        "relation": str(rewrite.get("relation_id") or ""),
        "paraphrases": _texts(record, "paraphrase_prompts"),
        "neighbours": _pairs(prompts, targets),
        "generation_prompts": _texts(record, "generation_prompts"),
    }


def easyedit(record: dict) -> dict:
    """One record of CounterFact as EasyEdit flattens it: the prompt contains the subject, and there is no relation."""
    subject, template = to_template(_text(record, "prompt"), _text(record, "subject"))
    return {
        "subject": subject,
        "prompt": template,
        "target_new": _answer(record, "target_new"),
        "target_true": _answer(record, "ground_truth"),
        "paraphrases": _texts(record, "rephrase_prompt"),
        "neighbours": _pairs(_texts(record, "locality_prompt"), _texts(record, "locality_ground_truth")),
    }


def zsre(record: dict) -> dict:
    """One question of MEND's zsRE: `alt` is the new answer; the first of `answers`, or else `pred`, is the true one.

    The neighbour is an unrelated question; it gets a question mark, as in MEMIT's evaluation. MEMIT writes the *true*
    answer into the model; here the new answer is written, as in MEND. A record whose `alt` is among the true answers
    would change nothing and is refused.
    """
    subject, template = to_template(_text(record, "src"), _text(record, "subject"))
    new, truths = _answer(record, "alt"), _texts(record, "answers") or [_text(record, "pred")]
    if normal_form(new) in (normal_form(truth.strip()) for truth in truths):
        raise ValueError(f"the new answer {new.strip()!r} is one of the true answers")
    questions = [loc if loc.endswith("?") else loc + "?" for loc in _texts(record, "loc")]
    return {
        "subject": subject,
        "prompt": template,
        "target_new": new,
        "target_true": truths[0],
        "paraphrases": _texts(record, "rephrase"),
        "neighbours": _pairs(questions, _texts(record, "loc_ans")),
    }


READERS = {
    ("requested_rewrite",): counterfact,
    ("prompt", "subject", "target_new", "ground_truth"): easyedit,
    ("src", "subject", "alt"): zsre,
}


def to_template(text: str, subject: str) -> tuple[str, str]:
    """The subject as it is spelled in the text, and the text with `{}` in its place.

    If the subject occurs several times, the last occurrence is used, since it has the most context before it;
    occurrences as whole words are preferred to parts of words. If the exact spelling does not occur, differences in
    case, white space and Unicode form are ignored.

    Raises:
        ValueError: the subject does not occur in the text.
    """
    spans = _exact(text, subject) or _folded(text, subject)
    if not spans:
        raise ValueError(f"the subject {subject!r} does not occur in the prompt {text!r}")
    whole = [(a, b) for a, b in spans if not (text[a - 1 : a].isalnum() or text[b : b + 1].isalnum())]
    start, end = (whole or spans)[-1]
    return text[start:end], text[:start] + "{}" + text[end:]


def _exact(text: str, subject: str) -> list[tuple[int, int]]:
    """The character span of every occurrence of the subject in the text."""
    spans, start = [], text.find(subject)
    while subject and start >= 0:
        end = start + len(subject)
        if not unicodedata.combining(text[end : end + 1] or " "):  # a combining accent would make it another letter
            spans.append((start, end))
        start = text.find(subject, start + 1)
    return spans


def _folded(text: str, subject: str) -> list[tuple[int, int]]:
    """The spans, in the original text, of every occurrence of the subject after both are folded by `_fold`."""
    letters, origin = _fold(text)
    wanted = _fold(subject)[0].strip()
    spans = []
    for a, b in _exact(letters, wanted):
        start, end = origin[a], origin[b - 1] + 1
        inner = {origin[a - 1] if a else None, origin[b] if b < len(origin) else None}  # not inside a ligature
        if not inner & {start, end - 1}:
            spans.append((start, end))
    return spans


def _fold(text: str) -> tuple[str, list[int]]:
    """The text after NFKD, case folding and merging of white space, and each character's index in the original text."""
    letters, origin = [], []
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold()):
            if letter.isspace() and letters[-1:] == [" "]:
                continue
            letters.append(" " if letter.isspace() else letter)
            origin.append(place)
    return "".join(letters), origin


def _text(record: dict, key: str) -> str:
    """The text under a key, stripped. Raises ValueError if there is none."""
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"there is no text under {key!r}")
    return value.strip()


def _answer(record: dict, key: str) -> str:
    """An answer: a text, the first of a list of texts, or CounterFact's {"str": ..., "id": ...}."""
    value = record.get(key)
    if isinstance(value, dict):
        value = value.get("str")
    if isinstance(value, list):
        value = value[0] if value else None
    return _text({key: value}, key)


def _texts(record: dict, key: str) -> list[str]:
    """The texts under a key that may hold one text, a list of texts, or nothing."""
    value = record.get(key)
    values = value if isinstance(value, list) else [value]
    try:
        return [text for text in values if text and text.strip()]
    except AttributeError:
        raise ValueError(f"{key!r} must hold text") from None


def _pairs(prompts: list[str], answers: list[str]) -> list[tuple[str, str]]:
    """Pair each neighbour with its answer. Raises ValueError if there are not equally many."""
    if len(prompts) != len(answers):
        raise ValueError(f"there are {len(prompts)} neighbours and {len(answers)} answers to them")
    return list(zip(prompts, answers, strict=True))
