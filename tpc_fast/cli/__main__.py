"""`python -m tpc_fast.cli`: the command `tpc-fast`."""

import sys

from tpc_fast.cli.main import main

sys.exit(main())
