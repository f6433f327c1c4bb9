"""The policy: loading, packed scoring, decoding, and what it costs."""
