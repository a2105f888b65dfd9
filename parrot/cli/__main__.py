"""`python -m parrot.cli` is `parrot`."""

from parrot.cli import main

if __name__ == "__main__":
    main()
