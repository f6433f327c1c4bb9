"""Graders that several envs share: text and facts to a Reward."""
