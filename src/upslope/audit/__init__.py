"""Whether rewards can be trusted: verifier fuzzing, and the alarms on hacking of every run.

``AUDITS`` names what watches a stage's training rewards, the table ``[audit]`` of a recipe.
"""

AUDITS = {"alarms": "upslope.audit.settings:Alarms"}
