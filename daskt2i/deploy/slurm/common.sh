# The rest is the same for all jobs. Dask's scheduler and the command run on the first node, a worker in each task.
job=$SLURM_JOB_ID settings=() workers=''

say() { printf 'Job %s: %s\n' "$job" "$*"; }

threads=${SLURM_CPUS_PER_TASK:-1}
count=$((SLURM_JOB_NUM_NODES * SLURM_NTASKS_PER_NODE))

# A part of the memory is for scheduler and command.
if [ "${SLURM_MEM_PER_NODE:-0}" -gt 0 ]; then
    reserve=$((SLURM_MEM_PER_NODE / 4 < 1024 ? SLURM_MEM_PER_NODE / 4 : 1024))
    memory=$(((SLURM_MEM_PER_NODE - reserve) / SLURM_NTASKS_PER_NODE))MiB
elif [ "${SLURM_MEM_PER_CPU:-0}" -gt 0 ]; then
    memory=$((SLURM_MEM_PER_CPU * threads * 9 / 10))MiB
else
    memory=auto
fi

worker='
if ! [ -r "$DASK_CONFIG" ]; then
    echo "$(hostname) does not see the folder ${DASK_CONFIG%/*}, so it does no work. All nodes must see the run folder;" \
        "give a shared folder (--out), or one for the certificates of the job (--shared)." >&2
    exit 1
fi
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then # one GPU for each worker
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    export CUDA_VISIBLE_DEVICES=${gpus[SLURM_LOCALID % ${#gpus[@]}]}
fi
address=$1 memory=$2
shift 2
exec "$0" -m dask worker "$address" --name "$SLURMD_NODENAME-$SLURM_JOB_ID-$SLURM_PROCID" --nworkers 1 \
    --nthreads "$OMP_NUM_THREADS" --memory-limit "$memory" --no-dashboard --death-timeout 300 "$@"
'

# Give the address of the scheduler, and more options of `dask worker`.
start_workers() {
    "${settings[@]}" OMP_NUM_THREADS="$threads" MKL_NUM_THREADS="$threads" OPENBLAS_NUM_THREADS="$threads" \
        srun --quiet --kill-on-bad-exit=0 --no-kill --wait=0 --cpus-per-task="$threads" \
        bash -c "$worker" "$python" "$1" "$memory" "${interface[@]}" "${@:2}" &
    workers=$!
}

