"""Texts as real training takes them: longer tokens, many documents, ids that stay in a file.

Serves chapters 1 and 2. Begin with bpe.py: how GPT-2's tokens are learned and used.
"""
