"""Envs by name; one file each. ``file.py:Name`` names one from outside the package."""

ENVS = {
    "archive": "upslope.envs.archive:Archive",
    "arithmetic": "upslope.envs.arithmetic:Arithmetic",
    "countdown": "upslope.envs.countdown:Countdown",
    "honeypot": "upslope.envs.honeypot:Honeypot",
    "logic": "upslope.envs.logic:Logic",
    "math": "upslope.envs.mathematics:Mathematics",
    "notes": "upslope.envs.notes:Notes",
    "prices": "upslope.envs.prices:Prices",
    "reasoning_gym": "upslope.envs.reasoning_gym:ReasoningGym",
    "retrieval": "upslope.envs.retrieval:Retrieval",
    "tampering": "upslope.envs.honeypot:Tampering",
    "working": "upslope.envs.working:Working",
}
