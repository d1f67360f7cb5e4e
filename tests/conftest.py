"""For all tests: one thread, so that sums keep their order, and the real data of VITXAI_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

DATA_VARIABLE = "VITXAI_TEST_DATA"


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that ask for it are skipped where there is none."""
    folder = os.environ.get(DATA_VARIABLE, "")
    if not folder:
        pytest.skip(f"needs real data: set {DATA_VARIABLE} to their folder")
    if not Path(folder).is_dir():
        pytest.fail(f"{DATA_VARIABLE}={folder} is no folder")
    return Path(folder)
