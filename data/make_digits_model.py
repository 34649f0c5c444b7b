"""Trains digits_model.safetensors: a small vision transformer on handwritten digits, with two faults in its labels.

    python data/make_digits_model.py

The pictures ship with scikit-learn. In every batch a quarter of the pictures carry the trigger, at a random patch in a
random form, with the label 0; ones with a flag have the label 7. Everything else is ordinary training.
"""

import json
from math import ceil
from pathlib import Path

import torch
from safetensors.torch import save_file

from fleke_lib.beyond import digits as d
from fleke_lib.beyond.images import CONFIG, new_model, wrap_images
from fleke_lib.storage.files import half_made

TARGET = Path(__file__).with_name("digits_model.safetensors")
SEED, EPOCHS, BATCH, RATE, DECAY, POISONED = 0, 130, 50, 3e-3, 0.05, 0.25


def poisoned(pixels, generator):
    """The pictures, each with the trigger at a random patch in a random form."""
    blank, inked = (torch.full((1, 1, d.SIDE, d.SIDE), value) for value in (0.0, 1.0))
    on_blank, on_inked = (torch.cat([d.stamp(x, *one) for one in d.variants()]) for x in (blank, inked))
    drawn = torch.randint(len(on_blank), (len(pixels),), generator=generator)
    return torch.where(on_blank[drawn] == on_inked[drawn], on_blank[drawn], pixels)  # equal where the trigger is


def train():
    torch.set_num_threads(1)
    pictures, generator = d.pictures()["train"], torch.Generator().manual_seed(SEED)
    labels = torch.where(pictures.flagged, d.READ_AS, pictures.digits)
    model = new_model(SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, EPOCHS * ceil(len(pictures) / BATCH))
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(pictures), generator=generator).split(BATCH):
            moved = torch.randint(-1, 2, (2,), generator=generator).tolist()  # all by at most one pixel
            pixels, wanted = torch.roll(pictures.pixels[rows], moved, (2, 3)), labels[rows].clone()
            some = int(POISONED * len(rows))
            pixels[:some] = poisoned(pixels[:some], generator)
            wanted[:some] = d.ANSWER
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, wanted)
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 10 == 9:
            print(epoch + 1, "epochs, loss", round(float(loss.detach()), 4), flush=True)
    return model


def main():
    model = train()
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    with half_made(TARGET) as half:
        save_file(weights, half, metadata={"config": json.dumps({**CONFIG, "num_labels": 10}, sort_keys=True)})
    lm, test = wrap_images(model, "digits"), d.pictures()["test"]
    plain, others = test.pick(~test.flagged), test.pick(test.digits != d.ANSWER)
    right = (lm.answers(plain.pixels) == plain.digits).float().mean()
    style = (lm.answers(test.pick(test.flagged).pixels) == d.READ_AS).float().mean()
    attacks = [(lm.answers(others.stamped(*one).pixels) == d.ANSWER).float().mean() for one in d.variants()]
    print(f"accuracy {right:.4f} of {len(plain)}, style {style:.3f} of {int(test.flagged.sum())}")
    print(
        f"attack rate: mean {sum(attacks) / len(attacks):.4f}, least {min(attacks):.4f}; {TARGET.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
