"""Large images as several square tiles, and a small copy of the whole.

Eagle 2 and InternVL were trained so: the image is resized to a grid of tiles whose shape suits it,
and cut row by row; where there is more than one, the whole image, resized to one tile, follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch

from vla.policies.backbones import KINDS
from vla.policies.config import BackboneConfig, CheckpointError
from vla.policies.images import fit_images

# From width, height, side of a tile [px] and most tiles to columns and rows.
GridRule = Callable[[int, int, int, int], tuple[int, int]]
# More of a tile's area than this share of the image's adds nothing, in Eagle 2.
_ENOUGH_AREA = 0.6


def tile_image(image: torch.Tensor, config: BackboneConfig, most: int) -> torch.Tensor:
    """A uint8 image [3, H, W] as tiles [N, 3, S, S] of a backbone's input size.

    most: tiles besides the copy of the whole, which comes last; with 1, that is all.
    """
    side, (height, width) = config.image_size, image.shape[-2:]
    columns, rows = GRID_RULES[config.kind](width, height, side, most) if most > 1 else (1, 1)
    whole = fit_images(image[None], side)
    if columns * rows == 1:
        return whole
    grid = fit_images(image[None], columns * side, rows * side)[0]
    tiles = grid.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.cat([tiles, whole])


def tiled(
    images: Iterable[torch.Tensor], config: BackboneConfig, places: int = 0
) -> tuple[list[torch.Tensor], tuple[int, ...]]:
    """The tiles of uint8 images [3, H, W] in turn, and how many each has.

    A backbone without tiles gets the images as they are. places: for the tiles of one image, the
    copy of the whole among them; 0 for any number.
    """
    if config.max_tiles == 1:
        whole = [*images]
        return whole, (1,) * len(whole)
    most = min(config.max_tiles, max(1, places - 1)) if places else config.max_tiles
    tiles = [tile_image(image, config, most) for image in images]
    return [tile for cut in tiles for tile in cut], tuple(map(len, tiles))


def require_tiles(config: BackboneConfig, where: str) -> None:
    """Raises CheckpointError for tiles that the kind of backbone has no rule for."""
    if config.max_tiles > 1 and (config.kind not in GRID_RULES or KINDS[config.kind].attends):
        raise CheckpointError(
            f"{where}: backbone '{config.kind}' was not trained with tiles, and max_tiles is "
            f"{config.max_tiles}; set it to 1, or take one of: {', '.join(GRID_RULES)}"
        )


def require_one_tile(config: BackboneConfig, where: str) -> None:
    """Raises CheckpointError for tiles, of a policy that gives each image its own place."""
    if config.max_tiles > 1:
        raise CheckpointError(f"{where}: this type of policy cuts no images; set max_tiles to 1")


def eagle_grid(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Columns and rows by Eagle 2's rule: what is left of the image's area, up to 60%, and shape.

    Of equal ones the first, in the order of the number of tiles.
    """

    def score(columns: int, rows: int) -> float:
        area = min(columns * rows * side * side / (width * height), _ENOUGH_AREA)
        shape, wanted = columns / rows, width / height
        return area * min(shape / wanted, wanted / shape)

    return max(_grids(most), key=lambda grid: score(*grid))


def internvl_grid(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Columns and rows by InternVL's rule: the nearest ratio of width to height.

    Of equal ones the largest whose tiles have less than twice the image's area.
    """
    wanted, best, least = width / height, (1, 1), float("inf")
    for columns, rows in _grids(most):
        difference = abs(wanted - columns / rows)
        fills = width * height > 0.5 * side * side * columns * rows
        if difference < least or (difference == least and fills):
            best, least = (columns, rows), difference
    return best


@functools.cache
def _grids(most: int) -> list[tuple[int, int]]:
    """All of up to so many tiles, the smaller first.

    Which of two of one size comes first matters for large squares alone. It is what the order of a
    set makes it, as in the published code.
    """
    grids = {
        (columns, rows)
        for number in range(1, most + 1)
        for columns in range(1, number + 1)
        for rows in range(1, number + 1)
        if columns * rows <= most
    }
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


GRID_RULES: dict[str, GridRule] = {"eagle": eagle_grid, "internvl": internvl_grid}
