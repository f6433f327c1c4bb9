"""Preferences: pairs and what is learned from them. Reward models themselves are in ``models``."""
