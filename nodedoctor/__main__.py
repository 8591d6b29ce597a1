"""`python -m nodedoctor`."""

from nodedoctor.cli import main

if __name__ == "__main__":
    main()
