"""Algorithms by name; one file each. ``file.py:Name`` names one from outside the package."""

ALGORITHMS = {
    "cispo": "upslope.algorithms.cispo:CISPO",
    "constrained": "upslope.algorithms.constrained:Constrained",
    "distill": "upslope.algorithms.distill:Distill",
    "dr_grpo": "upslope.algorithms.dr_grpo:DrGRPO",
    "gigpo": "upslope.algorithms.gigpo:GiGPO",
    "grpo": "upslope.algorithms.grpo:GRPO",
    "gspo": "upslope.algorithms.gspo:GSPO",
    "ilql": "upslope.algorithms.ilql:ILQL",
    "iql": "upslope.algorithms.iql:IQL",
    "ppo": "upslope.algorithms.ppo:PPO",
    "reinforce": "upslope.algorithms.reinforce:Reinforce",
    "rloo": "upslope.algorithms.rloo:RLOO",
    "sft": "upslope.algorithms.sft:SFT",
    "turns": "upslope.algorithms.turns:Turns",
    "vapo": "upslope.algorithms.vapo:VAPO",
}
