"""Group messages as drain3 does; runs in the virtual environment of `make test-drain3`, which has nothing else.

Reads one JSON object a line (`endpoint`, `message`) from stdin, writes one JSON list: the cluster of each. drain3 has
its own defaults, and masks as its documentation proposes (address, hexadecimal, number). One miner an endpoint, for
incidents are kept apart in the same way.
"""

from __future__ import annotations

import json
import sys

from drain3 import TemplateMiner
from drain3.masking import MaskingInstruction
from drain3.template_miner_config import TemplateMinerConfig

_MASKS = {
    "IP": r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])",
    "HEX": r"(?<!\w)(?:0x[0-9a-fA-F]+|[0-9a-f]{8,})(?!\w)",
    "NUM": r"(?<!\w)[-+]?\d+(?!\w)",
}


def main() -> None:
    config = TemplateMinerConfig()
    config.masking_instructions = [MaskingInstruction(what, name) for name, what in _MASKS.items()]
    miners: dict[str, TemplateMiner] = {}
    found = []
    for line in sys.stdin:
        failure = json.loads(line)
        miner = miners.setdefault(failure["endpoint"], TemplateMiner(config=config))
        found.append([failure["endpoint"], miner.add_log_message(failure["message"])["cluster_id"]])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
