"""``python -m nsrlib.cli``: the ``nsr`` command."""

from nsrlib.cli import main

if __name__ == "__main__":
    main()
