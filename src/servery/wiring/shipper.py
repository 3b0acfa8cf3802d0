"""The shipper of this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from servery.host.clock import Clock
from servery.host.logs import start_logs
from servery.host.settings import DataFolder
from servery.host.supervisor import Lifeline
from servery.wiring.commands import ShipperSettings


def run_shipper(settings: ShipperSettings, lifeline: Lifeline) -> None:
    """The shipper of this machine: from all spools to the ledger, and to the database of Content."""
    from servery.control.published import read_snapshot
    from servery.store.carrier import Carrier
    from servery.store.shipper import Shipper

    start_logs("shipper")
    folder = DataFolder(Path(settings.data))
    stop = threading.Event()
    # A service manager may send these to every process. The supervisor says when: after the worker's last Record.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        lifeline.wait_ended()
        stop.set()

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
    records = read_snapshot(folder.snapshot).manifest.records
    carrier = Carrier(folder.content_spool, folder.contents, Clock())
    shipper = Shipper(folder.spool, folder.ledger, records, Clock(), carrier.turn)
    lifeline.say("ready")
    shipper.run(stop)
    carrier.close()
