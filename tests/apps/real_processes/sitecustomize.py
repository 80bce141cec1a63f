"""Puts the fault of ``$TAVIT_TEST_FAULT`` into a process that Flower starts, once the ClientApp has been imported.

Python imports this file at its start where its folder is on the path.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys

APP = "tavit_flwr.client_app"


class AfterImport(importlib.abc.MetaPathFinder):
    """Finds the ClientApp as Python would, and does something after it has run."""

    def find_spec(self, name, path=None, target=None):
        if name != APP:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            import faults

            faults.apply(json.loads(os.environ["TAVIT_TEST_FAULT"]))

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("TAVIT_TEST_FAULT"):
    sys.meta_path.insert(0, AfterImport())
