"""One training step with all its numbers.

step.trace --> data.Trace --> text.as_lines, for people; step.as_json, for machines
"""
