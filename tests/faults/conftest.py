"""A place whose disk is memory, where there is one: thousands of crashes wait for no disk."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def memory_tmp(tmp_path):
    """A temporary directory, in memory if the system has such a place."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    place = Path(tempfile.mkdtemp(prefix="oc-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)
