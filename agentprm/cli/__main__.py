"""`python -m agentprm.cli`."""

import sys

from agentprm.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
