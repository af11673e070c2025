"""A module as N ranks on N workers: all to the end, or none.

In here: the front (`launcher`), all attempts and one attempt (`attempt`), what starts ranks on this machine
(`rank_spawners`) and on Dask workers (`dask_ranks`), which rank goes where (`placement`), one rank's process from
outside (`supervisor`) and from inside (`rank`), ranks talking to each other (`process_group`).
Not in here: what a module computes, where its checkpoints lie.
Imports: `errors`, `portable_errors`, `events`, `retries`, `machine`, `deploy`.
Public: `launcher.launch`, `dask_ranks.DaskRankSpawner`, `rank.job`, `rank.tell`; docs/how-to/launch.md shows how to
launch a module of your own.
"""
