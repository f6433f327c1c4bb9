"""Algorithms by name; one file each. ``file.py:Name`` names one from outside the package."""

ALGORITHMS = {
    "cispo": "upslope.algorithms.cispo:CISPO",
    "dr_grpo": "upslope.algorithms.dr_grpo:DrGRPO",
    "grpo": "upslope.algorithms.grpo:GRPO",
    "gspo": "upslope.algorithms.gspo:GSPO",
    "pass_at_k": "upslope.algorithms.pass_at_k:PassAtK",
    "reinforce": "upslope.algorithms.reinforce:Reinforce",
    "reinforce_pp": "upslope.algorithms.reinforce_pp:ReinforcePP",
    "remax": "upslope.algorithms.remax:ReMax",
    "rloo": "upslope.algorithms.rloo:RLOO",
    "sft": "upslope.algorithms.sft:SFT",
}
