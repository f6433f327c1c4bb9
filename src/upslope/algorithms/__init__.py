"""Algorithms by name; one file each. ``file.py:Name`` names one from outside the package."""

ALGORITHMS = {
    "awr": "upslope.algorithms.awr:AWR",
    "cispo": "upslope.algorithms.cispo:CISPO",
    "dr_grpo": "upslope.algorithms.dr_grpo:DrGRPO",
    "dpo": "upslope.algorithms.dpo:DPO",
    "grpo": "upslope.algorithms.grpo:GRPO",
    "gspo": "upslope.algorithms.gspo:GSPO",
    "ipo": "upslope.algorithms.ipo:IPO",
    "kto": "upslope.algorithms.kto:KTO",
    "orpo": "upslope.algorithms.orpo:ORPO",
    "raft": "upslope.algorithms.raft:RAFT",
    "reinforce": "upslope.algorithms.reinforce:Reinforce",
    "rloo": "upslope.algorithms.rloo:RLOO",
    "sft": "upslope.algorithms.sft:SFT",
    "simpo": "upslope.algorithms.simpo:SimPO",
}
