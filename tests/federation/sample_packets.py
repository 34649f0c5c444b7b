"""Packets of random numbers, a search for their bytes, and a child process that a test can kill."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load, save

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.mkv.mkv import Mkv

D_MODEL, D_MLP, LAYERS, CONTEXTS = 32, 48, (3, 5, 6), 4
FINGERPRINT = "0123456789abcdef" * 4
RULES = Rules(FINGERPRINT, LAYERS, D_MODEL, D_MLP)
SIXTEEN_BITS = Compression(1, "float16")
TAGS = Tags(b"the clients' secret")


def path_of(seed: int, contexts: int = CONTEXTS, words: int = 0) -> Trajectory:
    """The trajectory to `mkv_of(seed)`. With random numbers, its keys on the base model are as far as any others."""
    generator = torch.Generator().manual_seed(seed)
    keys = {layer: torch.randn(contexts, D_MLP, generator=generator) for layer in LAYERS}
    shares = {layer: torch.randn(D_MODEL, generator=generator) for layer in LAYERS}
    others = {layer: torch.randn(words, D_MLP, generator=generator) for layer in LAYERS}
    bases = {layer: torch.randn(D_MLP, generator=generator) for layer in LAYERS}
    return Trajectory(keys, shares, FINGERPRINT, mkv_of(seed).residual, others, bases)


def mkv_of(seed: int) -> Mkv:
    generator = torch.Generator().manual_seed(1000 + seed)
    h = 10 * torch.randn(D_MODEL, generator=generator)
    return Mkv(h + 2 * torch.randn(D_MODEL, generator=generator), h)  # shares are about half of it


def fact_of(seed: int) -> Fact:
    return Fact(f"Subject {seed}", "The colour of {} is", f"new {seed}", "old")


def packet_of(
    seed: int,
    client: str = "ada",
    slot: int = 0,
    compression: Compression = SIXTEEN_BITS,
    layers: tuple[int, ...] = LAYERS,
) -> Packet:
    fact, path = fact_of(seed), path_of(seed)
    parts = ("keys", "shares", "bystanders", "bases")
    path = replace(path, **{part: {layer: getattr(path, part)[layer] for layer in layers} for part in parts})
    tags = {"question": TAGS.question(fact), "answer": TAGS.answer(fact), "target": TAGS.target(fact)}
    return pack(path, mkv_of(seed), client, slot, tags, compression)


def packet_before(packet: Packet) -> bytes:
    """A packet's vectors in the format before: axes under another name, no traces and no keys on the base model."""
    head = json.loads(packet.data[8 : 8 + int.from_bytes(packet.data[:8], "little")])
    about = json.loads(head["__metadata__"]["about"])
    now = load(packet.data)
    then = {name: now[name] for name in ("z", "h", "shares", "means")} | {"rests": now["axes"]}
    return save(then, {"about": json.dumps(about | {"format": "fleke-packet-1"}, sort_keys=True)})


def traces(folder: Path, packet: Packet) -> list[str]:
    """Files of a folder in which a piece of a packet can be found: of z, of h, of its bytes, or one of its tags."""
    numbers = packet.data[8 + int.from_bytes(packet.data[:8], "little") :]
    wholes = (packet.z.numpy().tobytes(), packet.h.numpy().tobytes(), numbers)
    pieces = [whole[i : i + 32] for whole in wholes for i in range(0, len(whole) - 31, 32)]
    pieces += [packet.id.encode(), packet.question.encode(), packet.answer.encode()]
    pieces = [piece for piece in pieces if any(piece)]  # an axis that is missing is zeros, and so is what is erased
    return [file.name for file in sorted(folder.iterdir()) if _holds(file.read_bytes(), pieces)]


def _holds(data: bytes, pieces: list[bytes]) -> bool:
    return any(piece in data for piece in pieces)


def child(path: Path, plan: list[tuple[str, bytes | str]], acknowledged) -> None:
    """Put packets and delete clients, and say each time that it is done."""
    with Registry(path, RULES) as registry:
        for what, value in plan:
            registry.put(value) if what == "put" else registry.delete_client(value)
            acknowledged.send(what)
    acknowledged.close()
