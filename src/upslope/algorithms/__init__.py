"""Algorithms by name; one file each. ``file.py:Name`` names one from outside the package."""

ALGORITHMS = {
    "cispo": "upslope.algorithms.cispo:CISPO",
    "dr_grpo": "upslope.algorithms.dr_grpo:DrGRPO",
    "grpo": "upslope.algorithms.grpo:GRPO",
    "gspo": "upslope.algorithms.gspo:GSPO",
    "reinforce": "upslope.algorithms.reinforce:Reinforce",
    "rloo": "upslope.algorithms.rloo:RLOO",
    "sft": "upslope.algorithms.sft:SFT",
}
