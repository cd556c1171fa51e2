"""python3 -m tiny_llm is tiny-lm, with nothing installed."""

import sys

if __name__ == "__main__":
    try:
        from tiny_llm.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # before `main` could take care of it
        sys.exit(130)
