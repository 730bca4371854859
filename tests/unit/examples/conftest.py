from __future__ import annotations

from pathlib import Path

import pytest
import spoken_sentences


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Aligned and further speech, as the speechocean example takes it."""
    return spoken_sentences.make_folders(tmp_path)
