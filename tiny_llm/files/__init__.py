"""Models, tokenizers and token ids as files, and the one place that writes any file.

Serves whatever is kept. Begin with checkpoint.py: a model as one file that nothing can execute.
"""
