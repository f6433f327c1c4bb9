"""Programs that run within the sandbox, as text: they import the standard library and nothing of
ours, and are never imported here."""

from __future__ import annotations

from pathlib import Path

FUTURE = "from __future__ import annotations\n"


def source(*names: str) -> str:
    """The text of some of them, one after the other: "wire", "tested", "judge"."""
    folder = Path(__file__).parent
    texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names]
    return FUTURE + "\n".join(text.replace(FUTURE, "") for text in texts)
