"""The scores of an evaluation: per image, means, JSON and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from torch import Tensor

from tavit_flwr.restoration import capped_psnr_db, ssim
from tavit_flwr.restoration.metrics import Channel

_CHANNELS: tuple[Channel, ...] = ("rgb", "y")
_SMALLEST_SSIM = 11


@dataclass(frozen=True)
class Scores:
    """One image by one method; of means, the means over images.

    Attributes
    ----------
    psnr_db, psnr_y_db : float
        On RGB and on luma; equal images count as 100 dB.
    ssim, ssim_y : float or None
        The same; None for images with a side below 11 pixels, which means leave out.
    seconds : float
        Wall time of the method; 0 for the input.
    """

    psnr_db: float
    ssim: float | None
    psnr_y_db: float
    ssim_y: float | None
    seconds: float


@dataclass(frozen=True)
class ImageScores:
    """One case: the image, the variant of its degradation, and method to scores, ``input`` and ``restored`` first."""

    image: str
    variant: str
    scores: dict[str, Scores]


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    about : dict
        Weights, task, degradation, tiling, and what the other methods are.
    images : list of ImageScores
        In the order of the names.
    failures : dict
        Image to why it could not be scored.
    """

    about: dict[str, Any]
    images: list[ImageScores] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def variants(self) -> list[str]:
        """Settings of the degradation, in the order of their appearance."""
        return list(dict.fromkeys(image.variant for image in self.images))

    def means(self, variant: str | None = None) -> dict[str, Scores]:
        """Mean scores of each method over the images of one variant, or all."""
        rows = [image.scores for image in self.images if variant is None or image.variant == variant]
        return {method: _mean([row[method] for row in rows]) for method in rows[0]}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        groups: list[str | None] = list(self.variants) if len(self.variants) > 1 else []
        means = {variant or "all": self.means(variant) for variant in [None, *groups]}
        return {
            "about": self.about,
            "means": {
                group: {method: asdict(scores) for method, scores in by_method.items()}
                for group, by_method in means.items()
            },
            "images": [asdict(image) for image in self.images],
            "failures": self.failures,
        }

    def tables(self) -> list[Table]:
        """PSNR and SSIM of each image, and their means, by each method."""
        return [self._per_image(), self._means()]

    def _per_image(self) -> Table:
        table = _table("each image", "image", "method")
        for image in self.images:
            name = f"{image.image} {image.variant}".strip()
            for method, one in image.scores.items():
                table.add_row(name, method, *_cells(one))
                name = ""
        made = self.about.get("degradation")
        table.caption = f"degraded by {made['name']} {made['options']}, seed {made['seed']}" if made else "given pairs"
        return table

    def _means(self) -> Table:
        table = _table("means over images", "variant", "method", "images")
        for variant in self.variants:
            count = str(sum(image.variant == variant for image in self.images))
            for method, one in self.means(variant).items():
                table.add_row(variant or "-", method, count, *_cells(one))
        table.caption = f"{'rounded to 8 bits' if self.about.get('rounding') else 'not rounded'}; s: seconds an image"
        return table


def score(image_CHW: Tensor, clean_CHW: Tensor, *, rounding: bool, seconds: float) -> Scores:
    """Score one image in [-1, 1]; `DataError` where it holds NaN."""
    large = min(clean_CHW.shape[1:]) >= _SMALLEST_SSIM
    rgb_db, y_db = (capped_psnr_db(image_CHW, clean_CHW, one, rounding) for one in _CHANNELS)
    rgb, y = (ssim(image_CHW, clean_CHW, one, rounding) if large else None for one in _CHANNELS)
    return Scores(rgb_db, rgb, y_db, y, seconds)


def _mean(rows: Sequence[Scores]) -> Scores:
    def over(name: str) -> float | None:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        return sum(values) / len(values) if values else None

    return Scores(
        over("psnr_db") or 0.0, over("ssim"), over("psnr_y_db") or 0.0, over("ssim_y"), over("seconds") or 0.0
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if column == "images" else "left", overflow="fold")
    for column in ("PSNR", "SSIM", "PSNR Y", "SSIM Y", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(one: Scores) -> tuple[str, ...]:
    return (
        f"{one.psnr_db:.2f}", _share(one.ssim), f"{one.psnr_y_db:.2f}", _share(one.ssim_y), f"{one.seconds:.2f}"
    )  # fmt: skip


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
