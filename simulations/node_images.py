"""Image folders for the nodes of a federation on this machine: tiles of the bundled photographs, each with one node.

``python -m simulations.node_images FOLDER...`` deals them out among folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from tavit_flwr.data.images import Sample
from tavit_flwr.data.photographs import bundled_photographs

#: Side of a tile, pixels: two to six of the demo's crops across.
TILE_PX = 192


def deal_images(folders: list[Path], tile_px: int = TILE_PX) -> dict[Path, int]:
    """Cut the photographs into tiles and deal them out in turn, as PNG files.

    Parameters
    ----------
    folders : list of Path
        Made; one a node.
    tile_px : int
        Side of a tile.

    Returns
    -------
    dict
        Folder to its number of images. No tile is in two folders.
    """
    photographs = bundled_photographs()
    dealt = dict.fromkeys(folders, 0)
    for folder in folders:
        folder.mkdir(parents=True)
    tiles = [
        (f"{sample.name}-{top}-{left}", tile)
        for sample in map(photographs.load, range(len(photographs)))
        for top, left, tile in _tiles(sample, tile_px)
    ]
    for number, (name, tile) in enumerate(tiles):
        folder = folders[number % len(folders)]
        tile.save(folder / f"{name}.png")
        dealt[folder] += 1
    return dealt


def _tiles(sample: Sample, side: int) -> list[tuple[int, int, Image.Image]]:
    image = Image.fromarray(sample.clean_CHW.permute(1, 2, 0).contiguous().numpy())
    return [
        (top, left, image.crop((left, top, left + side, top + side)))
        for top in range(0, image.height - side + 1, side)
        for left in range(0, image.width - side + 1, side)
    ]


def main() -> None:
    """Make the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="is made, one a node")
    for folder, images in deal_images(parser.parse_args().folders).items():
        print(f"{images} images in {folder}")


if __name__ == "__main__":
    main()
