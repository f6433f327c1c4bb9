"""Engines sample from a copy of the policy: token ids in, token ids out."""
