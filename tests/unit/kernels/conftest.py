"""What has a C++ extension is tested with it and without."""

import pytest

from fairseq_mtssl.kernels import native


@pytest.fixture(params=["compiled", "by torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the C++ extension, and without."""
    if request.param == "by torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("not compiled here")
