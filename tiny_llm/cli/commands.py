"""All commands by name."""

# Command -> its module, which is imported when it is called for, and what it does.
COMMANDS = {
    "train": ("train", "train a model on a text, show what it writes, save it"),
    "generate": ("generate", "continue a prompt with a saved model"),
    "eval": ("evaluate", "loss, perplexity and bits per character of a saved model on a text"),
    "tokenizer": (
        "tokenizer",
        "learn longer tokens from a text (train), see how a text becomes tokens (show)",
    ),
    "sft": ("sft", "teach a model that goes on with texts to answer"),
    "dpo": ("dpo", "teach a model that answers which of two answers is the better one"),
    "recipe": ("recipe", "run all stages of a recipe, one after the other"),
    "chat": ("chat", "talk to a model that was taught to"),
    "serve": ("serve", "serve a model to many, with the API that OpenAI's clients speak"),
    "import": ("import_model", "turn a model of another program into one file of this one"),
    "export": ("export_model", "write a model for Hugging Face's programs, or for llama.cpp"),
    "quantize": ("quantize", "write a saved model with int8 weights, an eighth of the size"),
    "prepare": ("prepare", "turn texts of any size into a file of token ids to train on"),
    "trace": ("trace", "one training step with its real numbers, from text to updated weight"),
    "attention": ("attention", "show what each attention head of a saved model reads from"),
    "plot": ("plot", "draw the losses of one or more runs"),
    "gradcheck": ("gradcheck", "compare every slope of a backward with the measured one"),
    "bench": ("bench", "measure what this machine and this Python can do"),
    "report": ("report", "write one HTML page about a saved model, to be handed out"),
    "book": ("book", "write the source as one annotated page, to read, run and change"),
}
