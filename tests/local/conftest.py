from __future__ import annotations

import os

# The engine's threads spin while they wait for each other, and then take turns with whatever else runs on the machine: tests
# that took a minute took nine beside another test run. A short spin is a seventh slower on an idle machine. It is set before the
# library is loaded, which reads it once; the programs that tests start inherit it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
