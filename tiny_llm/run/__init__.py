"""A training run as an object: its options, its gradients, what it keeps, how it goes on.

Serves chapters 7 and 8, and whatever trains. Begin with gradients.py.
"""
