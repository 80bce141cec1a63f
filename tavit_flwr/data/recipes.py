"""The field's data sets: where a person gets them, how they lie in a folder, and what complete copies hold.

A table and nothing else; `tavit_flwr.data.complete` checks a folder against it. Nothing here is downloaded: terms of
use are between the user and the page that is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Literal

Kind = Literal["images", "pairs", "dicom", "voc"]


@dataclass(frozen=True)
class Part:
    """One folder of a data set.

    Attributes
    ----------
    name : str
        What it is for.
    folder : str
        POSIX path below the data set's folder.
    kind : str
        Single ``images``, ``pairs`` as in `tavit_flwr.data.pairs`, ``dicom`` pairs, or ``voc``.
    count : int or None
        Images or pairs of a complete copy; None where any number will do.
    sizes : tuple of (int, int)
        Width and height that occur, lying or standing; empty where sizes vary.
    """

    name: str
    folder: str
    kind: Kind
    count: int | None
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def what(self) -> str:
        """What is counted."""
        return "pairs" if self.kind in ("pairs", "dicom") else "images"

    @property
    def size_text(self) -> str:
        """The sizes that occur, as people write them."""
        return " or ".join(f"{width}x{height}" for width, height in self.sizes) or "any size"


@dataclass(frozen=True)
class Recipe:
    """One data set.

    Attributes
    ----------
    name : str
        As `tavit check-data` takes it.
    page : str
        The project page that gives it away, by name.
    addresses : tuple of str
        Where that page was when this was written.
    parts : tuple of Part
        Its folders.
    advice : str
        What has to be done with the files of that page, and what to mind.
    """

    name: str
    page: str
    addresses: tuple[str, ...]
    parts: tuple[Part, ...]
    advice: str = ""

    def lines(self) -> list[str]:
        """The recipe as people read it."""
        lines = [f"{self.name}: {self.page}", *(f"    {address}" for address in self.addresses)]
        for part in self.parts:
            count = "any number of" if part.count is None else f"{part.count:,}"
            lines.append(f"    {part.name:<6} {part.folder:<14} {count} {part.what}, {part.size_text}")
        return [*lines, f"    {self.advice}"] if self.advice else lines


_BERKELEY = ((481, 321),)
_RAIN_PAGE = "Deep Joint Rain Detection and Removal from a Single Image (Yang et al., CVPR 2017)"
_RAIN_ADDRESS = ("https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html",)
_RAIN_FOLDERS = "Put rainy images into rain/ and clean ones into norain/; rain-001.png and norain-001.png are a pair."

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "bsds500",
        "Berkeley Segmentation Data Set and Benchmarks 500 (Arbelaez et al., PAMI 2011)",
        ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html",),
        (
            Part("train", "images/train", "images", 200, _BERKELEY),
            Part("val", "images/val", "images", 100, _BERKELEY),
            Part("test", "images/test", "images", 200, _BERKELEY),
        ),
        "The folder is BSDS500/data of the archive. CBSD68 is taken from val: do not train on that and test on it.",
    ),
    Recipe(
        "cbsd68",
        "test sets of DnCNN (Zhang et al., TIP 2017); the choice is of Fields of Experts (Roth, Black, 2009)",
        ("https://github.com/clausmichele/CBSD68-dataset",),
        (Part("test", ".", "images", 68, _BERKELEY),),
        "The clean colour images alone, CBSD68/original_png there. They are among BSDS500's val.",
    ),
    Recipe(
        "kodak24",
        "Kodak Lossless True Color Image Suite (PhotoCD PCD0992)",
        ("https://r0k.us/graphics/kodak/",),
        (Part("test", ".", "images", 24, ((768, 512),)),),
    ),
    Recipe(
        "voc2012-sbd",
        "PASCAL Visual Object Classes Challenge 2012; Semantic Boundaries Dataset (Hariharan et al., ICCV 2011)",
        (
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            "http://home.bharathh.info/pubs/codes/SBD/download.html",
        ),
        (Part("train", ".", "voc", 10582),),
        "Unpack VOC's archive, which makes VOCdevkit/VOC2012; put train.txt and val.txt of SBD into sbd/. "
        "Needs a torchvision that fits torch. Two clients of a task get two disjoint halves.",
    ),
    Recipe("rain100h", _RAIN_PAGE, _RAIN_ADDRESS, (Part("test", ".", "pairs", 100, _BERKELEY),), _RAIN_FOLDERS),
    Recipe("rain100l", _RAIN_PAGE, _RAIN_ADDRESS, (Part("test", ".", "pairs", 100, _BERKELEY),), _RAIN_FOLDERS),
    Recipe(
        "rain1800",
        _RAIN_PAGE,
        _RAIN_ADDRESS,
        (Part("train", ".", "pairs", 1800),),
        f"RainTrainH there. {_RAIN_FOLDERS}",
    ),
    Recipe(
        "rain1400",
        "Removing Rain from Single Images via a Deep Detail Network (Fu et al., CVPR 2017)",
        ("https://xueyangfu.github.io/projects/cvpr2017.html",),
        (Part("train", "train", "pairs", 12600), Part("test", "test", "pairs", 1400)),
        f"{_RAIN_FOLDERS} Each clean image has fourteen rainy ones: 901_1.jpg to 901_14.jpg belong to 901.jpg.",
    ),
    Recipe(
        "rain800",
        "Image De-raining Using a Conditional Generative Adversarial Network (Zhang, Sindagi, Patel, TCSVT 2020)",
        ("https://github.com/hezhangsprinter/ID-CGAN",),
        (Part("train", "train", "pairs", 700), Part("test", "test", "pairs", 100)),
        "Published as one picture with both halves beside each other: docs/datasets.md says how to cut them apart. "
        f"{_RAIN_FOLDERS}",
    ),
    Recipe(
        "rain12",
        "Rain Streak Removal Using Layer Priors (Li et al., CVPR 2016)",
        ("https://yu-li.github.io/",),
        (Part("train", ".", "pairs", 12),),
        _RAIN_FOLDERS,
    ),
    Recipe(
        "gopro",
        "GOPRO_Large, Deep Multi-scale CNN for Dynamic Scene Deblurring (Nah et al., CVPR 2017)",
        ("https://seungjunnah.github.io/Datasets/gopro",),
        (Part("train", "train", "pairs", 2103, ((1280, 720),)), Part("test", "test", "pairs", 1111, ((1280, 720),))),
        "As in the archive: train/<scene>/blur and train/<scene>/sharp; blur_gamma is not read.",
    ),
    Recipe(
        "ldct",
        "Low Dose CT Image and Projection Data, The Cancer Imaging Archive; "
        "or 2016 NIH-AAPM-Mayo Clinic Low Dose CT Grand Challenge",
        (
            "https://www.cancerimagingarchive.net/collection/ldct-and-projection-data/",
            "https://www.aapm.org/grandchallenge/lowdosect/",
        ),
        (Part("train", "train", "dicom", None, ((512, 512),)), Part("test", "test", "dicom", None, ((512, 512),))),
        "train/low_dose/<patient>/ and train/full_dose/<patient>/ with equal names for slices of equal position; "
        "other patients in test/. Needs the extra `dicom`.",
    ),
)


def recipe_named(name: str) -> Recipe | None:
    """Look a recipe up; None where there is none of this name."""
    return next((recipe for recipe in RECIPES if recipe.name == name), None)


def part_at(folder: PurePath) -> Part | None:
    """Find the part that a folder is called after, such as ``gopro/test`` for ``/data/gopro/test``."""
    for recipe in RECIPES:
        for part in recipe.parts:
            ending = PurePosixPath(recipe.name, part.folder).parts
            if folder.parts[-len(ending) :] == ending:
                return part
    return None
