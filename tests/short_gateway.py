"""The gateway with shorter deadlines, so that a test need not wait for the real ones."""

from __future__ import annotations

import json
import os

from fedward_server import gateway, gateway_limits, gateway_process, gateway_tls

MODULES = (gateway, gateway_limits, gateway_tls)

if __name__ == "__main__":
    for name, value in json.loads(os.environ["SHORT_GATEWAY"]).items():
        holders = [module for module in MODULES if hasattr(module, name)]
        assert holders, name
        for module in holders:
            setattr(module, name, value)
    gateway_process.main()
