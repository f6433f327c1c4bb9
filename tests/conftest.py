"""Every test: one thread, and the shapes that pure tensor code declares are checked as it runs."""

import signal

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
PURE = ["upslope.advantages", "upslope.losses", "upslope.batch"]
# Before anything imports them, which is why it is here.
install_import_hook(PURE, "beartype.beartype")
# A shell that starts the tests in the background has SIGINT ignored, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["torch", "onednn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What multiplies, whichever this processor is served by best and however small a matrix is."""
    from upslope.models import products

    other = request.param == "onednn"
    if other and not products.there():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "foreign", lambda: other)
    monkeypatch.setattr(products, "WORK", 1)
    return str(request.param)
