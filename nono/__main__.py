"""`python -m nono` and the console script `nono`."""

from nono.cli import main

if __name__ == "__main__":
    main()
