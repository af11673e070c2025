"""Run a module as N ranks on N workers: either all ranks finish, or all are stopped.

In here: the public function (`launcher`), all attempts and one attempt (`attempt`), starting ranks on this machine
(`rank_spawners`) and on Dask workers (`dask_ranks`), which rank goes where (`placement`), one rank's process from
outside (`supervisor`) and from inside (`rank`), communication between ranks (`process_group`).
Not in here: what a module computes, where it keeps its checkpoints.
Imports: `errors`, `portable_errors`, `events`, `retries`, `machine`, `deploy`.
Public: `launcher.launch`, `dask_ranks.DaskRankSpawner`, `rank.job`, `rank.tell`; docs/how-to/launch.md shows how to
launch a module of your own.
"""
