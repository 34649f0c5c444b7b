"""A random model of an architecture, small enough that a whole run takes seconds, with a tokenizer made from the facts.

It knows nothing, so that what it scores means nothing; what it shows is that every step runs on this architecture.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from fleke_lib.facts.fact import Fact
from fleke_lib.model.presets import Hparams
from fleke_lib.storage.files import half_made

D_MODEL, D_MLP, LAYERS, HEADS = 32, 64, 4, 4
SPREAD = 0.25  # of random weights: enough that every layer matters, in logits that one edited key can move
BEGIN, END = "<|begin_of_text|>", "<|endoftext|>"
CONTEXTS = ("", "Therefore, it is a day. ", "The time of the year. ")
HPARAMS = Hparams(layers=(1, 2), steps=3)


def write_tiny(config: PretrainedConfig, facts: Sequence[Fact], folder: Path, seed: int = 0) -> Path:
    """Write a tiny random model of the same class as `config`, as `save_pretrained` does, and return its folder."""
    tokenizer = _tokenizer(facts, begins=config.model_type == "llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_small(config, tokenizer), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=SPREAD)
    with half_made(folder) as half:
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)
    return folder


def _small(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """A configuration of the same class, with few and narrow layers."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": len(tokenizer), "tie_word_embeddings": config.tie_word_embeddings, **ends}
    gpt = {"n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": LAYERS, "n_head": HEADS}
    other = {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    sizes = {
        "gpt2": gpt,
        "gptj": gpt | {"rotary_dim": D_MODEL // HEADS // 2},
        "llama": other | {"num_key_value_heads": 2},
    }
    return type(config)(**common, **sizes.get(config.model_type, other))


def _tokenizer(facts: Sequence[Fact], begins: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as all these models have it; `begins` puts a token before every text, as Llama-3 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{fact.question} {fact.target_new}" for fact in facts], trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, clean_up_tokenization_spaces=False
    )
