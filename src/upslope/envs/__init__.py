"""Envs by name; one file each. ``file.py:Name`` names one from outside the package."""

ENVS = {
    "arithmetic": "upslope.envs.arithmetic:Arithmetic",
    "prices": "upslope.envs.prices:Prices",
}
