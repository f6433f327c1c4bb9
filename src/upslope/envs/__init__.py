"""Envs by name; one file each. ``file.py:Name`` names one from outside the package."""

ENVS = {
    "arithmetic": "upslope.envs.arithmetic:Arithmetic",
    "countdown": "upslope.envs.countdown:Countdown",
    "logic": "upslope.envs.logic:Logic",
    "math": "upslope.envs.mathematics:Mathematics",
    "notes": "upslope.envs.notes:Notes",
    "prices": "upslope.envs.prices:Prices",
    "reasoning_gym": "upslope.envs.reasoning_gym:ReasoningGym",
    "working": "upslope.envs.working:Working",
}
