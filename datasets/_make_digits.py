"""Writes `data/digits.npz` from the copy of the UCI handwritten digits that scikit-learn ships.

Run once, by hand, where scikit-learn is installed: ``python -m vitxai.datasets._make_digits [FILE]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

ATTRIBUTION = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository, "
    "doi 10.24432/C50P49, CC BY 4.0; test part, 1,797 images, as shipped by scikit-learn; values 0 to 16 as uint8"
)


def write_digits(path: Path) -> None:
    """`images` uint8 [1797, 8, 8] (ink 0..16), `labels` uint8 [1797] and `attribution`, in the order of the source."""
    digits = load_digits()
    np.savez_compressed(
        path,
        images=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.uint8),
        attribution=np.array(ATTRIBUTION),
    )


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "digits.npz")
