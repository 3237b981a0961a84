"""`python -m scaleevent`, which torchrun needs."""

from scaleevent.cli import main

if __name__ == "__main__":
    main()
