"""Everything that is only there for speed, from worker processes to the KV cache.

Serves chapters 3, 8 and 9. No idea of a model is in here; a first reader may skip it.
"""
