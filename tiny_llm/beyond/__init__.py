"""What came after GPT-2, told as what changed since rung 3.

Serves chapter 12. Begin with llama.py: the architecture that most open models have today.
"""
