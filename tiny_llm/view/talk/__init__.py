"""A page to talk to a model that is served, and to look inside it while it writes.

talk.html is its skeleton, talk.js what it asks the server and makes of the answers; how it looks,
its row of tokens and its attention maps are those of the report.
"""
