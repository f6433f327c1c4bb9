"""Envs by name; one file each. ``file.py:Name`` names one from outside the package."""

ENVS = {
    "agent": "upslope.envs.agent:Agent",
    "archive": "upslope.envs.archive:Archive",
    "arithmetic": "upslope.envs.arithmetic:Arithmetic",
    "code": "upslope.envs.code:Code",
    "countdown": "upslope.envs.countdown:Countdown",
    "functions": "upslope.envs.functions:Functions",
    "honeypot": "upslope.envs.honeypot:Honeypot",
    "logic": "upslope.envs.logic:Logic",
    "math": "upslope.envs.mathematics:Mathematics",
    "notes": "upslope.envs.notes:Notes",
    "openenv": "upslope.envs.openenv:OpenEnv",
    "prices": "upslope.envs.prices:Prices",
    "reasoning_gym": "upslope.envs.reasoning_gym:ReasoningGym",
    "spreadsheet": "upslope.envs.spreadsheet:Spreadsheet",
    "retrieval": "upslope.envs.retrieval:Retrieval",
    "tampering": "upslope.envs.honeypot:Tampering",
    "workbooks": "upslope.envs.workbooks:Workbooks",
    "working": "upslope.envs.working:Working",
}
