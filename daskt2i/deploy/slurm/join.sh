# This job adds workers to the job that works on the run folder now, and to those that follow it.
# They leave before the time of this job is over, one after the other, and give their chunks back.
short=0
while lifetime=$((limit - stop_before - SECONDS)) && [ "$lifetime" -gt 0 ]; do
    found=$("$python" -m daskt2i.workflow cluster find "$folder" --out "$out") || exit 1
    { read -r private && read -r address; } <<<"$found"
    settings=(env "DASK_CONFIG=$private/dask.yaml")
    say "workers for the scheduler at $address: $count on $SLURM_JOB_NODELIST."
    begun=$SECONDS
    stagger=$((stop_before < lifetime ? stop_before / 2 : lifetime / 2))
    start_workers "$address" --lifetime "${lifetime}s" --lifetime-stagger "${stagger}s"
    wait "$workers"
    [ $((SECONDS - begun)) -gt 20 ] && short=0
    short=$((short + 1))
    if [ "$short" -ge 3 ]; then
        say "its workers ended three times within seconds; the lines above say why."
        exit 1
    fi
done
say "its time is nearly over. Its workers have left, and the others go on."
