"""Envs by name; one file each. ``file.py:Name`` names one from outside the package."""

ENVS = {
    "arithmetic": "upslope.envs.arithmetic:Arithmetic",
    "code": "upslope.envs.code:Code",
    "countdown": "upslope.envs.countdown:Countdown",
    "honeypot": "upslope.envs.honeypot:Honeypot",
    "logic": "upslope.envs.logic:Logic",
    "math": "upslope.envs.mathematics:Mathematics",
    "notes": "upslope.envs.notes:Notes",
    "prices": "upslope.envs.prices:Prices",
    "programs": "upslope.envs.programs:Programs",
    "reasoning_gym": "upslope.envs.reasoning_gym:ReasoningGym",
    "tampering": "upslope.envs.honeypot:Tampering",
    "working": "upslope.envs.working:Working",
}
