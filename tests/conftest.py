"""Every test: one thread, and the shapes that pure tensor code declares are checked as it runs."""

import signal

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
PURE = ["upslope.advantages", "upslope.losses", "upslope.batch"]
# Before anything imports them, which is why it is here.
install_import_hook(PURE, "beartype.beartype")
# A shell that starts the tests in the background has SIGINT ignored, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
