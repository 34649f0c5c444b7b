"""Readers for the JSON schemas in which facts are published, one for each schema.

A reader converts one record to the fields of a `Fact`; neighbours are pairs (prompt, answer). It raises ValueError with
the reason if it cannot read the record. `read` chooses the reader by the record's keys, not by the file's name, and
lists what the reader does not use.

| schema | recognised by the keys | source |
|---|---|---|
| CounterFact, multi-CounterFact | `requested_rewrite` | Meng et al., ROME (2202.05262) and MEMIT (2210.07229) |
| flattened CounterFact, KnowEdit | `prompt`, `subject`, `target_new`, `ground_truth` | EasyEdit; arXiv 2401.01286 |
| zsRE | `src`, `subject`, `alt` | Mitchell et al., MEND (2110.11309) |
"""

import unicodedata

from fleke_lib.facts.fact import normal_form


def read(record: dict) -> dict:
    """The fields of one record of any of the schemas; `unused` lists what the record has and no field can hold.

    Raises ValueError with the reason if it cannot be read.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, not {type(record).__name__}")
    for keys, reader in READERS.items():
        if record.keys() >= set(keys):
            fields = reader(record)
            return fields | {"unused": _unknown(record, reader.__name__) + fields.get("unused", [])}
    raise ValueError(f"its keys ({', '.join(map(str, record)) or 'none'}) are those of none of the schemas")


def is_known(record: object) -> bool:
    """Whether the record is a JSON object with the keys of one of the schemas."""
    return isinstance(record, dict) and any(record.keys() >= set(keys) for keys in READERS)


def why_unknown(record: object) -> str:
    """What the records of a file of no known schema are, where that can be told; else nothing."""
    keys = record.keys() if isinstance(record, dict) else set()
    if keys >= {"prompt", "subject", "target_new"}:
        return " (the first one has no ground_truth, the true answer that the new one is compared with)"
    if keys >= {"concept", "text", "labels"}:
        return " (the first one is of KnowEdit's WikiBio, a text to write and no question with two answers)"
    return ""


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
    """One record of CounterFact as EasyEdit flattens it: the prompt contains the subject, and there is no relation.

    KnowEdit's records have the same keys, and their neighbours in groups under `locality`. Many of these ask for other
    properties of the same subject. An entry without a prompt or an answer is not used.
    """
    subject, template = to_template(_text(record, "prompt"), _text(record, "subject"))
    grouped, unused = _locality(record)
    return {
        "subject": subject,
        "prompt": template,
        "target_new": _answer(record, "target_new"),
        "target_true": _answer(record, "ground_truth"),
        "paraphrases": _texts(record, "rephrase_prompt") + _texts(record, "rephrase"),
        "neighbours": _pairs(_texts(record, "locality_prompt"), _texts(record, "locality_ground_truth")) + grouped,
        "unused": unused,
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
KNOWN = {  # the keys that each reader uses, or leaves aside as its docstring says, besides the record's number
    "counterfact": "requested_rewrite paraphrase_prompts neighborhood_prompts neighborhood_targets generation_prompts "
    "attribute_prompts pararel_idx requested_rewrite.prompt requested_rewrite.subject requested_rewrite.relation_id "
    "requested_rewrite.target_new requested_rewrite.target_true",
    "easyedit": "prompt subject target_new ground_truth rephrase_prompt rephrase locality_prompt locality_ground_truth "
    "locality",
    "zsre": "src subject alt answers pred rephrase loc loc_ans cond",
}


def _unknown(record: dict, reader: str) -> list[str]:
    """The keys with a value that the reader does not know; those of a rewrite with `requested_rewrite.` before them."""
    inner = record.get("requested_rewrite") if reader == "counterfact" else {}
    values = record | {f"requested_rewrite.{key}": value for key, value in inner.items()}
    known = {"case_id", *KNOWN[reader].split()}
    return [str(key) for key, value in values.items() if key not in known and value not in (None, "", [], {})]


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
    """An answer: a text, the first of a list of texts (or of lists), or CounterFact's {"str": ..., "id": ...}."""
    value = record.get(key)
    if isinstance(value, dict):
        value = value.get("str")
    while isinstance(value, list):
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


def _locality(record: dict) -> tuple[list[tuple[str, str]], list[str]]:
    """KnowEdit's neighbours, in groups `{name: [{"prompt": ..., "ground_truth": ...}]}`, and what is not used."""
    groups = record.get("locality") or {}
    if not isinstance(groups, dict) or not all(isinstance(group, list) for group in groups.values()):
        return [], ["locality"]
    pairs, unused = [], []
    for entry in (entry for group in groups.values() for entry in group):
        try:
            pairs.append((_text(entry, "prompt"), _answer(entry, "ground_truth")))
        except (ValueError, AttributeError):
            unused = ["entries of locality without a prompt or an answer"]
    return pairs, unused


def _pairs(prompts: list[str], answers: list[str]) -> list[tuple[str, str]]:
    """Pair each neighbour with its answer. Raises ValueError if there are not equally many."""
    if len(prompts) != len(answers):
        raise ValueError(f"there are {len(prompts)} neighbours and {len(answers)} answers to them")
    return list(zip(prompts, answers, strict=True))
