"""The columns of `bench encode`, and the meaning of each figure. `docs/reference/bench.md` says more.

Covers: names, units, their tables on a terminal.
Does not cover: computing the figures (`scaling`).
"""

from __future__ import annotations

from daskt2i.bench.report import Column

STAGES = ("encode_image", "encode_text", "gate", "wait", "write", "other", "idle")
"""The stages of a worker's thread, one after the other. Their shares add up to 1."""

COLUMNS = (
    Column("part", "text"),
    Column("scheduler", "text"),
    Column("workers", "count"),
    Column("wall_s", "seconds", "wall", "Time", meaning="Start of the process to the end of the command; median."),
    Column("wall_min_s", "seconds", "least", "Time", meaning="The fastest repeat."),
    Column("wall_max_s", "seconds", "most", "Time", meaning="The slowest repeat."),
    Column("cold_s", "seconds", "cold start", "Time", meaning="Until all workers have imported and loaded; median."),
    Column("steady_s", "seconds", "steady", "Time", meaning="From there to the last chunk; median."),
    Column("finish_s", "seconds", "finish", "Time", meaning="Ending workers, writing the manifest; median."),
    Column("images_per_s", "rate", "rate", "Speed", "images", "Accepted rows per steady second; median."),
    Column("speed_up", "times", "speed-up", "Speed", meaning="Compared with the fastest single worker of this part."),
    Column("efficiency", "share", "", "Speed", meaning="Speed-up divided by the cores that these workers may use, or by"
           " the workers if these are more."),
    Column("vs_naive", "times", "by naive", "Speed", meaning="Rate divided by the best rate of naive in this part."),
    Column("chunk_s", "seconds", "a chunk", "Speed", meaning="One chunk on one worker; median over chunks."),
    Column("peak_share", "share", "of the peak", "Limit", meaning="Operations of the encoders per steady second,"
           " divided by the peak of products and convolutions on as many cores in the same precision."),
    Column("model_peak_share", "share", "in the model", "Limit", meaning="The same per second inside the encoders."),
    Column("cpu_share", "share", "cores busy", "Limit", meaning="Processor seconds of all daskt2i processes, divided by"
           " steady seconds x cores of the machine."),
    Column("elsewhere_share", "share", "by others", "Limit", meaning="The same for all other processes."),
    Column("model_share", "share", "model", "Worker time", meaning="In the encoders, of workers x steady seconds."),
    Column("encode_image_share", "share", "image", "Worker time", meaning="In the image encoder."),
    Column("encode_text_share", "share", "text", "Worker time", meaning="In the text encoder, including tokens."),
    Column("gate_share", "share", "gate", "Worker time", meaning="Decoding rows back to check them."),
    Column("wait_share", "share", "wait", "Worker time", meaning="Waiting for the next picture to be decoded."),
    Column("write_share", "share", "write", "Worker time", meaning="Compressing, hashing, flushing the chunk."),
    Column("other_share", "share", "other", "Worker time", meaning="The rest of a chunk: copying, checking."),
    Column("idle_share", "share", "idle", "Worker time", meaning="Without a chunk: sending, receipts, the end of the"
           " run."),
    Column("read_share", "share", "read", "Beside it", meaning="Reader threads fetching bytes, of worker time."),
    Column("decode_share", "share", "decode", "Beside it", meaning="Reader threads decoding and resizing."),
    Column("worker_peak_bytes", "bytes", "worker", "Memory", meaning="Largest resident size of any worker."),
    Column("driver_peak_bytes", "bytes", "driver", "Memory", meaning="Largest resident size of the driver."),
    Column("written_bytes", "bytes", "written", "Memory", meaning="Size of the store; for naive, of the pickle."),
    Column("rows", "count", "", "Memory", meaning="Counted rows of each repeat: accepted and rejected."),
    Column("rejected", "count", "", "Memory", meaning="Rejected rows of each repeat."),
    Column("repeats", "count", "", "Memory", meaning="Number of runs for the medians."),
    Column("threads", "count", "", "Memory", meaning="Torch threads of each worker; naive has torch's default."),
)  # fmt: skip
