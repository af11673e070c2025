script=$0 stop='' killed='' next='' driver='' scheduler='' private='' signals=0 asked=0

# Wait for a child process, also if signals come meanwhile. Returns its exit code.
finish() {
    local code before=-1
    while [ "$before" != "$signals" ]; do
        before=$signals
        wait "$1"
        code=$?
    done
    return "$code"
}

submit_again() ( # a subshell, because the next job must not have the variables of this one
    for name in "${!SLURM_@}"; do
        [ "$name" = SLURM_CONF ] || unset "$name"
    done
    exec sbatch --parsable --dependency="afterany:$job" "$script" "$((resubmit - 1))"
)

# SLURM sends USR1 some time before the end, and TERM at the end, and when somebody cancels the job.
time_is_nearly_over() {
    signals=$((signals + 1))
    [ -z "$stop" ] || return
    stop="time" asked=$SECONDS
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null
    if [ "$resubmit" -gt 0 ]; then
        next=$(submit_again) || next=''
        next=${next%%;*}
    fi
}
must_end() {
    signals=$((signals + 1))
    if [ -z "$stop" ]; then
        stop="cancelled"
        [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null
    elif [ "$stop" = time ] && [ $((SECONDS - asked)) -lt "$stop_before" ]; then
        stop="cancelled" # by somebody, because the time is not over
    else
        killed=yes
    fi
}
trap time_is_nearly_over USR1
trap must_end TERM INT

# The workers end when the scheduler ends.
close_cluster() {
    trap '' USR1 TERM INT
    if [ -n "$scheduler" ]; then
        kill -TERM "$scheduler" 2>/dev/null
        for _ in {1..75}; do
            kill -0 "${workers:-$scheduler}" 2>/dev/null || break
            sleep 0.2
        done
        [ -z "$workers" ] || kill -TERM "$workers" 2>/dev/null
        wait
    fi
    [ -z "$private" ] || rm -rf -- "$private"
}
trap close_cluster EXIT

# Certificates and Dask's settings, in a folder that only this user can read.
private=$("$python" -m daskt2i.workflow cluster folder "$folder" --out "$out") || exit 1
settings=(env "DASK_CONFIG=$private/dask.yaml")
# If another job of this node has the port of the dashboard, Dask takes another one, and the command prints its address.
"${settings[@]}" "$python" -W ignore:Port:UserWarning -m dask scheduler --port 0 \
    --dashboard-address 127.0.0.1:8787 --scheduler-file "$private/scheduler.json" "${interface[@]}" &
scheduler=$!
address=''
while [ -z "$address" ] && [ -z "$stop" ] && kill -0 "$scheduler" 2>/dev/null; do
    sleep 0.2
    address=$(sed -n 's/.*"address": "\([a-z]*:[^"]*\)".*/\1/p;T;q' "$private/scheduler.json" 2>/dev/null)
done
if [ -z "$address" ] && [ -z "$stop" ]; then
    say "Dask's scheduler did not start, so nothing was done. The lines above say why."
    exit 1
fi

if [ -z "$stop" ]; then
    say "scheduler and dashboard are on $(hostname). Workers: $count on $SLURM_JOB_NODELIST."
    start_workers "$address"
    "${settings[@]}" "$python" -m daskt2i.workflow cluster wait "$address" --workers "$count" &
    driver=$!
    while kill -0 "$driver" 2>/dev/null; do
        if ! kill -0 "$workers" 2>/dev/null; then
            say "its workers have ended, so nothing was done. The lines above say why."
            kill -TERM "$driver" 2>/dev/null
            break
        fi
        sleep 0.2
    done
    finish "$driver"
    code=$?
    driver=''
    [ "$code" -eq 0 ] || [ -n "$stop" ] || exit 1
fi
code=130
if [ -z "$stop" ]; then
    "${settings[@]}" "$python" -m daskt2i.workflow "${command[@]}" --scheduler "$address" &
    driver=$!
    finish "$driver"
    code=$?
fi

again="Submit the same script again to continue."
if [ "$code" -eq 0 ]; then
    say "$out is finished."
elif [ -z "$stop" ]; then
    say "the command ended with exit code $code; the lines above say why. What is committed in $out stays."
elif [ "$stop" = time ] && { [ "$code" -eq 130 ] || [ -n "$killed" ]; } && [ -n "$next" ]; then
    say "its time was nearly over. What is committed in $out stays. Job $next continues it; $((resubmit - 1)) more may follow."
    next=''
elif [ "$stop" = time ]; then
    say "its time was nearly over. What is committed in $out stays. $again"
else
    why="it was cancelled or preempted"
    [ "$stop_before" -gt 0 ] || why="$why, or its time is over" # else a signal would have come before
    say "$why. What is committed in $out stays. $again"
fi
[ -z "$next" ] || scancel "$next"
exit "$code"
