"""Ranks without torch that count steps, give signs of life, and save when they are asked. A file `enough` ends them.

Begun anew, rank `hang` waits for ever in step 5, as one does whose network file system is gone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from daskt2i.launch import rank
from daskt2i.launch.vitals import heartbeat


def main() -> None:
    job, me = rank.job(), rank.rank()
    folder = Path(job["folder"])
    path = folder / "checkpoint.json"
    begun = step = json.loads(path.read_text())["step"] if path.exists() else 0
    heartbeat.at(step, heartbeat.STARTS)
    heartbeat.listen()
    while not (folder / "enough").exists():
        heartbeat.at(step + 1, heartbeat.READS)
        if me.rank == job.get("hang") and begun == 0 and step == 4:
            time.sleep(600)
        heartbeat.at(step + 1, heartbeat.COMPUTES)
        time.sleep(0.05)
        step += 1
        rank.tell("step", step=step)
        if me.rank == 0 and heartbeat.asked():
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps({"step": step}))
            beside.replace(path)
            rank.tell("checkpoint", step=step)
            heartbeat.saved(step)
    heartbeat.rest(step)


if __name__ == "__main__":
    main()
