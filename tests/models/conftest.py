"""A models folder that does not exist yet."""

import pytest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"
