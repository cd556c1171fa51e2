"""Models and their parts as files.

Serves whatever is kept. Begin with checkpoint.py: a model as one file that nothing can execute.
"""
