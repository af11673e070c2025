"""The columns of `bench encode`, and what each figure means. `docs/reference/bench.md` says more.

Covers: names, units, the tables they stand in on a terminal.
Does not cover: how a figure comes about (`scaling`).
"""

from __future__ import annotations

from daskt2i.bench.report import Column

STAGES = ("encode_image", "encode_text", "gate", "wait", "write", "other", "idle")
"""What a worker's thread does, one after the other; their shares add up to 1."""

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
    Column("images_per_s", "rate", "rate", "Speed", "images", "Accepted rows by steady seconds; median."),
    Column("speed_up", "times", "speed-up", "Speed", meaning="Against the fastest single worker of this part."),
    Column("efficiency", "share", "", "Speed", meaning="Speed-up by the cores that these workers may use, or by workers"
           " where those are more."),
    Column("vs_naive", "times", "by naive", "Speed", meaning="Rate by the best rate of naive in this part."),
    Column("chunk_s", "seconds", "a chunk", "Speed", meaning="One chunk on one worker; median over chunks."),
    Column("peak_share", "share", "of the peak", "Limit", meaning="Operations of the encoders by steady seconds, by"
           " what matrix products reach on as many cores here in the same precision."),
    Column("model_peak_share", "share", "in the model", "Limit", meaning="The same by seconds inside the encoders."),
    Column("cpu_share", "share", "cores busy", "Limit", meaning="Processor seconds of all our processes by steady"
           " seconds and cores of the machine."),
    Column("elsewhere_share", "share", "by others", "Limit", meaning="The same of all other processes."),
    Column("model_share", "share", "model", "Worker time", meaning="In the encoders, of workers x steady seconds."),
    Column("encode_image_share", "share", "image", "Worker time", meaning="In the image encoder."),
    Column("encode_text_share", "share", "text", "Worker time", meaning="In the text encoder, tokens included."),
    Column("gate_share", "share", "gate", "Worker time", meaning="Decoding rows back to check them."),
    Column("wait_share", "share", "wait", "Worker time", meaning="Waiting for the next picture to be decoded."),
    Column("write_share", "share", "write", "Worker time", meaning="Compressing, hashing, flushing the chunk."),
    Column("other_share", "share", "other", "Worker time", meaning="The rest of a chunk: copying, checking."),
    Column("idle_share", "share", "idle", "Worker time", meaning="No chunk in hand: sending, receipts, the end of the"
           " run."),
    Column("read_share", "share", "read", "Beside it", meaning="Reader threads fetching bytes, by worker time."),
    Column("decode_share", "share", "decode", "Beside it", meaning="Reader threads decoding and resizing."),
    Column("worker_peak_bytes", "bytes", "worker", "Memory", meaning="Largest resident size of any worker."),
    Column("driver_peak_bytes", "bytes", "driver", "Memory", meaning="Largest resident size of the driver."),
    Column("written_bytes", "bytes", "written", "Memory", meaning="Of the store; of the pickle for naive."),
    Column("rows", "count", "", "Memory", meaning="Rows of each repeat, counted: accepted and rejected."),
    Column("rejected", "count", "", "Memory", meaning="Of them, rejected."),
    Column("repeats", "count", "", "Memory", meaning="Runs that the medians are of."),
    Column("threads", "count", "", "Memory", meaning="Torch threads of each worker; naive has torch's default."),
)  # fmt: skip
