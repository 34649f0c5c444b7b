"""Writes data/mkvs/: the atlas facts' MKVs for the default model, which lessons then need not compute.

    python data/make_mkvs.py [method [facts]]

Of all facts, or of the first `facts`. It takes two to seven seconds per fact on two cores. An interrupted run resumes
where it stopped.
"""

import sys

from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.loading import load_facts
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.store import SHIPPED, names_of, stored_mkvs, write_mkvs
from fleke_lib.model.language_model import load_model
from fleke_lib.model.presets import chosen


def main(method: str = "memit", count: str = "") -> None:
    lm, facts = load_model(), load_facts("atlas", limit=int(count) if count else None)
    hparams, contexts = chosen(None, lm.preset, method), contexts_for(lm)
    mkvs = stored_mkvs(lm, facts, method, batch=16)
    names = names_of(lm, facts, same_key(lm, facts), method, contexts, hparams)
    about = {"model": lm.preset.model, "method": method, "hparams": str(hparams.named()), "contexts": str(contexts)}
    path = SHIPPED / f"{lm.preset.model}-{method}.safetensors"
    write_mkvs(path, dict(zip(names, mkvs, strict=True)), about)
    print(f"{len(mkvs)} MKVs in {path.name}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
