"""Algorithms by name; one file each. ``file.py:Name`` names one from outside the package."""

ALGORITHMS = {
    "cispo": "upslope.algorithms.cispo:CISPO",
    "dr_grpo": "upslope.algorithms.dr_grpo:DrGRPO",
    "grpo": "upslope.algorithms.grpo:GRPO",
    "gspo": "upslope.algorithms.gspo:GSPO",
    "ilql": "upslope.algorithms.ilql:ILQL",
    "iql": "upslope.algorithms.iql:IQL",
    "ppo": "upslope.algorithms.ppo:PPO",
    "reinforce": "upslope.algorithms.reinforce:Reinforce",
    "rloo": "upslope.algorithms.rloo:RLOO",
    "sft": "upslope.algorithms.sft:SFT",
    "vapo": "upslope.algorithms.vapo:VAPO",
}
