"""`python -m servery.wiring KIND SETTINGS LIFELINE LIFE` is how the supervisor starts the others."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec

from servery.host.supervisor import Lifeline


def main() -> None:
    """Run one process. Each imports only what its kind needs."""
    from servery.control.published import SnapshotError

    kind, settings, descriptor, life = sys.argv[1:5]
    lifeline = Lifeline(int(descriptor), int(life))
    try:
        if kind == "worker":
            from servery.wiring.worker import WorkerSettings, run_worker

            run_worker(msgspec.json.decode(settings, type=WorkerSettings), lifeline)
        elif kind == "controller":
            from servery.wiring.controller import ControllerSettings, run_controller

            run_controller(msgspec.json.decode(settings, type=ControllerSettings), lifeline)
        elif kind == "replica":
            from servery.fleet.processes import read_settings
            from servery.wiring.replica import run_replica

            run_replica(read_settings(Path(settings)), lifeline)
        else:
            from servery.wiring.shipper import ShipperSettings, run_shipper

            run_shipper(msgspec.json.decode(settings, type=ShipperSettings), lifeline)
    except SnapshotError as error:
        logging.getLogger("servery").error("there is nothing to work by: %s; start again to publish it", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
