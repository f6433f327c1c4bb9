"""The policy behind OpenAI's protocol: served to anybody, or recorded, in training."""
