"""A server: one model for many who ask at once, in the way that OpenAI's clients expect.

Serves whoever deploys a model, and chapter 9. Begin with batch.py: how requests join and leave the
running batch at every token.
"""
