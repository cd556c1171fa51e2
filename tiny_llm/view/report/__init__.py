"""A trained model as one page that can be handed out.

model, tokenizer, text --facts.py--> plain data --pictures.py, page.py--> report.html

The page needs nothing but itself: no network, no build step. page.html is its skeleton, page.css
how pages look, parts.js what answers to the pointer and the keyboard, page.js what this page does
with it.
"""
