"""Train a small GPT on a few old poems, in under a minute, and save it as `save_pretrained` does.

python examples/gpt/train.py FOLDER

It learns the poems by heart, so that one sees what it does. A chat is told to it as the beginning of a poem.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

POEMS = Path(__file__).with_name("poems.txt")
END = "<|endoftext|>"
WINDOW = 64
STEPS = 300
#: What was said last is what the poem goes on from.
TEMPLATE = "{{ messages[-1]['content'] }}"


def make_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the text's most common pieces, which are bytes at the least."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[END], initial_alphabet=letters, show_progress=False)
    inner.train_from_iterator([text], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END, model_max_length=256)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def train(folder: str) -> None:
    """Train the model and save it."""
    torch.manual_seed(0)
    poems = POEMS.read_text(encoding="utf-8").replace("\n\n\n", END)
    tokenizer = make_tokenizer(poems)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPT2LMHeadModel(config)
    numbers = torch.tensor(tokenizer(poems + END, verbose=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS)
    for step in range(STEPS):
        starts = torch.randint(len(numbers) - WINDOW, (8,))
        windows = torch.stack([numbers[start : start + WINDOW] for start in starts])
        scores = model(input_ids=windows).logits[:, :-1]
        loss = functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.2f}")
    model.generation_config.max_new_tokens = 60
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"saved in {folder}")


if __name__ == "__main__":
    train(sys.argv[1])
