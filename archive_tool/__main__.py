"""`python -m archive_tool` is `torchmar`."""

import sys

from archive_tool.cli import main

sys.exit(main())
