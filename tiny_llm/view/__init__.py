"""What people look at: attention, losses, a traced step, a page about a model.

Serves whoever runs a model. Every function here returns text; only the command line prints it.
Begin with trace/: one training step with its real numbers, told from what ran.
"""
