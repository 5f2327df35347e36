"""`vla` with its model sharded over CPU processes, as FSDP2 shards it over GPUs.

Accelerate shards on accelerators only; what it is told of the device here is all that differs.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from vla_cli.parser import main

if __name__ == "__main__":
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    sys.exit(main(sys.argv[1:]))
