"""Texts as real training takes them: longer tokens, lines as documents, orders without memory.

Serves chapters 1 and 2. Begin with bpe.py: how GPT-2's tokens are learned and used.
"""
