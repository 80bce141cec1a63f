"""Photographs that lie inside installed packages: a first run needs no download.

Eight scenes. JPEG sources are halved before they serve as clean images, as in folders; PNG sources are not.

==============  ============  ==================  ===============================================================
name            package       used at (W x H)     terms
==============  ============  ==================  ===============================================================
astronaut       scikit-image  512 x 512           NASA, public domain
coffee          scikit-image  600 x 400           CC0, Rachel Michetti
chelsea         scikit-image  451 x 300           CC0, Stefan van der Walt
rocket          scikit-image  320 x 214 (halved)  SpaceX, released into the public domain
motorcycle      scikit-image  741 x 500           Middlebury stereo 2014 (Scharstein et al.); carries no licence text
china           scikit-learn  320 x 214 (halved)  CC BY 2.0, flickr.com/photos/danielbuechele, 6061409035
flower          scikit-learn  320 x 214 (halved)  CC BY 2.0, flickr.com/photos/vultilion, 6056698931
grace_hopper    matplotlib    256 x 300 (halved)  US Navy portrait; carries no licence text
==============  ============  ==================  ===============================================================

They carry a demonstration, not a claim: publish numbers on benchmark images.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tavit_flwr.data.decode import read_image
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.errors import DataError

HELD_OUT_PHOTOGRAPHS = ("chelsea", "china")
"""For evaluation only, whole (ours): fur and shallow focus at full size; a building's fine lines, halved from JPEG."""

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}

TRAINING_PHOTOGRAPHS = tuple(name for name in _FILES if name not in HELD_OUT_PHOTOGRAPHS)


def bundled_photographs(*, halve_jpeg: bool = True) -> LazyImages:
    """Give all eight photographs, held-out ones included; none is opened yet.

    Parameters
    ----------
    halve_jpeg : bool
        See `tavit_flwr.data.decode.read_image`.
    """

    def read(name: str) -> Sample:
        return Sample(name, read_image(_path(name), f"bundled photograph '{name}'", halve_jpeg=halve_jpeg))

    return LazyImages(tuple(_FILES), read)


def _path(name: str) -> Path:
    """Find the file without importing its package."""
    package, file = _FILES[name]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise DataError(
        f"the file {file} in the installed package {package}",
        "none",
        f"bundled photograph '{name}'",
        "reinstall that package from its wheel, or use data.source=folder",
    )
