"""``python -m lemnos`` is ``lemnos``."""

from lemnos.cli.main import main

if __name__ == "__main__":
    main()
