"""Figure of chapter 06b on the registry's file: its bytes before and after a withdrawal."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.figures.style import COLOURS, GREY, Picture, canvas, finish
from fleke_lib.storage.files import user_path
from fleke_lib.unlearn.edits.traces import traces

COLUMNS = 128  # pixels per row
ROWS = 96  # at most
KINDS = ("zeros", "other bytes", "withdrawn bytes", "past the end")
TONES = ("#e9e9e9", COLOURS["sky"], COLOURS["vermilion"], "#ffffff")


def registry_bytes(
    before: str | Path,
    after: str | Path,
    packets: Sequence[Packet],
    kept: Sequence[Packet] = (),
    name: str = "06b-registry-bytes",
) -> Picture:
    """Two pixel maps of one file, a few bytes per pixel, with the withdrawn packets' bytes highlighted.

    A pixel is highlighted if one of its bytes belongs to a withdrawn packet, and shown as zero if all its bytes are 0.

    Args:
        before: a copy of the registry's file from before the withdrawal.
        after: the current file.
        packets: the withdrawn ones.
        kept: those that stay, as in `traces`.
    """
    files = {"Before": user_path(before), "After": user_path(after)}
    kinds = {title: bytes_map(path, packets, kept) for title, path in files.items()}
    each = max(1, ceil(max(map(len, kinds.values())) / (COLUMNS * ROWS)))
    rows = ceil(max(map(len, kinds.values())) / (COLUMNS * each))
    maps = {title: pixels(found, each, rows) for title, found in kinds.items()}
    with canvas(columns=2, height=1.4 + 3.2 * rows / ROWS, sharey=True) as (figure, axes):
        for axis, (title, shown) in zip(axes, maps.items(), strict=True):
            extent = (0, COLUMNS, rows * COLUMNS * each / 1000, 0)
            tones = ListedColormap(TONES)
            axis.imshow(shown, tones, vmin=0, vmax=3, interpolation="nearest", aspect="auto", extent=extent)
            axis.set(title=f"{title}: {len(kinds[title]) / 1000:,.0f} kB", xlabel=f"Pixel of {each} bytes")
        axes[0].set_ylabel("Place in the file (kB)")
        patches = [Patch(facecolor=tone, edgecolor=GREY, label=kind) for tone, kind in zip(TONES, KINDS, strict=True)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(KINDS))
    counts = {
        title: {kind: int((found == n).sum()) for n, kind in enumerate(KINDS[:3])} for title, found in kinds.items()
    }
    words = "; ".join(
        f"{title.lower()}, of {len(kinds[title]):,} bytes {here['withdrawn bytes']:,} are of withdrawn packets, "
        f"{here['other bytes']:,} are other bytes and {here['zeros']:,} are zeros"
        for title, here in counts.items()
    )
    return finish(
        figure,
        name,
        caption=f"The registry's file before and after {len(packets)} packets were withdrawn. Bytes of these packets "
        "that the search finds are highlighted.",
        alt=f"Two pixel maps of one file, side by side: {words}.",
        data={
            "bytes a pixel": each,
            "kinds": dict(enumerate(KINDS)),
            "bytes": counts,
            "rows": {title: ["".join(map(str, row)) for row in shown.tolist()] for title, shown in maps.items()},
        },
    )


def bytes_map(path: Path, packets: Sequence[Packet], kept: Sequence[Packet] = ()) -> UInt8[np.ndarray, " bytes"]:
    """The kind of every byte of a file, as an index into KINDS."""
    content = np.fromfile(path, np.uint8)
    found = (content != 0).astype(np.uint8)
    for trace in traces(path, packets, kept):
        found[trace.offset : trace.offset + trace.length] = 2
    return found


def pixels(kinds: UInt8[np.ndarray, " bytes"], each: int, rows: int) -> UInt8[np.ndarray, "rows columns"]:
    """The greatest kind among each pixel's bytes, in rows of COLUMNS; pixels past the end of the file come last."""
    size = rows * COLUMNS * each
    padded = np.concatenate([kinds, np.zeros(size - len(kinds), np.uint8)])
    shown = padded.reshape(rows * COLUMNS, each).max(1)
    shown[ceil(len(kinds) / each) :] = 3
    return shown.reshape(rows, COLUMNS)
