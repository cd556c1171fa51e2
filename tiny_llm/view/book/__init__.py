"""The book as a page: its source, explained beside it, with the numbers of a real step.

source.py cuts a file into prose and code, recorded.py notes what ran, page.py puts both together;
workshop.py is what runs in the reader's browser.
"""
