"""The JSON schemas in which facts are published, one reader each.

A reader turns one record into the fields of a `Fact`; neighbours are pairs (prompt, answer). What it cannot read it
refuses with a ValueError that says why. `read` chooses the reader by the record's keys, not by the file's name.

| schema | told by the keys | source |
|---|---|---|
| CounterFact, multi-CounterFact | `requested_rewrite` | Meng et al., ROME (2202.05262) and MEMIT (2210.07229) |
| flattened CounterFact | `prompt`, `subject`, `target_new`, `ground_truth` | EasyEdit |
| zsRE | `src`, `subject`, `alt` | Mitchell et al., MEND (2110.11309) |
"""

import unicodedata


def read(record: dict) -> dict:
    """The fields of one record, in whichever of the schemas it is. Raises ValueError with the reason if in none."""
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, not {type(record).__name__}")
    for keys, reader in READERS.items():
        if record.keys() >= set(keys):
            return reader(record)
    raise ValueError(f"its keys ({', '.join(map(str, record)) or 'none'}) are those of none of the schemas")


def is_known(record: object) -> bool:
    """Whether the record has the keys of one of the schemas."""
    return isinstance(record, dict) and any(record.keys() >= set(keys) for keys in READERS)


def counterfact(record: dict) -> dict:
    """One record of CounterFact or multi-CounterFact.

    The neighbours of a fact are prompts about other subjects with the same true answer, so `target_true` is theirs too.
    A file may give each its own in `neighborhood_targets`, as the atlas does. Attribute prompts are not used.
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
    """One record of CounterFact as EasyEdit flattens it: the subject stands in the prompt, there is no relation."""
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
    """One question of MEND's zsRE: `alt` is the new answer, the first of `answers` the true one (else `pred`).

    The neighbour is an unrelated question, written with a question mark as in MEMIT's evaluation. MEMIT writes the
    *true* answer into the model; here a fact is changed, as in MEND. An `alt` among the true answers changes nothing.
    """
    subject, template = to_template(_text(record, "src"), _text(record, "subject"))
    new, truths = _answer(record, "alt"), _texts(record, "answers") or [_text(record, "pred")]
    if new.strip() in (truth.strip() for truth in truths):
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

    Of several places the last is taken, the one that has the whole prompt before it in view; whole words go before
    parts of words. Where the exact spelling is not found, differences of case, blanks and Unicode form are overlooked.
    """
    spans = _exact(text, subject) or _folded(text, subject)
    if not spans:
        raise ValueError(f"the subject {subject!r} does not stand in the prompt {text!r}")
    whole = [(a, b) for a, b in spans if not (text[a - 1 : a].isalnum() or text[b : b + 1].isalnum())]
    start, end = (whole or spans)[-1]
    return text[start:end], text[:start] + "{}" + text[end:]


def _exact(text: str, subject: str) -> list[tuple[int, int]]:
    """Every place of the subject in the text: its first character and the one after its last."""
    spans, start = [], text.find(subject)
    while subject and start >= 0:
        end = start + len(subject)
        if not unicodedata.combining(text[end : end + 1] or " "):  # else an accent follows: it is another letter
            spans.append((start, end))
        start = text.find(subject, start + 1)
    return spans


def _folded(text: str, subject: str) -> list[tuple[int, int]]:
    """Every place of the subject in the text when both are folded, as it is in the text itself."""
    letters, origin = _fold(text)
    wanted = _fold(subject)[0].strip()
    spans = []
    for a, b in _exact(letters, wanted):
        start, end = origin[a], origin[b - 1] + 1
        inner = {origin[a - 1] if a else None, origin[b] if b < len(origin) else None}  # a part of a ligature, say
        if not inner & {start, end - 1}:
            spans.append((start, end))
    return spans


def _fold(text: str) -> tuple[str, list[int]]:
    """The text decomposed (NFKD), without case and with single blanks, and the place in the text of each character."""
    letters, origin = [], []
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold()):
            if letter.isspace() and letters[-1:] == [" "]:
                continue
            letters.append(" " if letter.isspace() else letter)
            origin.append(place)
    return "".join(letters), origin


def _text(record: dict, key: str) -> str:
    """The text under a key, without blanks around it."""
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
    """The texts under a key that may hold one, several or none."""
    value = record.get(key)
    values = value if isinstance(value, list) else [value]
    try:
        return [text for text in values if text and text.strip()]
    except AttributeError:
        raise ValueError(f"{key!r} must hold text") from None


def _pairs(prompts: list[str], answers: list[str]) -> list[tuple[str, str]]:
    """Neighbours, each with its answer."""
    if len(prompts) != len(answers):
        raise ValueError(f"there are {len(prompts)} neighbours and {len(answers)} answers to them")
    return list(zip(prompts, answers, strict=True))
