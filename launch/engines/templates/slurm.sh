#!/bin/bash
# The environment servers ({{ servers }}) and the agents ({{ agents }}) of a run of matrpo, one task each: sbatch this file.
#SBATCH --job-name={{ name }}
#SBATCH --ntasks={{ agents + servers }}
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="{{ run }}/slurm-%j.log"
#SBATCH --signal=B:TERM@60
{% for option in options -%}
#SBATCH {{ option }}
{% endfor %}
run={{ run | quote }}
matrpo={{ matrpo | quote }}
export run matrpo OMP_NUM_THREADS=1

# Run a command again until it ends well or was told to stop (130), but not if it fails at once time after time.
keep() {
    local failures=0 begun status
    while begun=$SECONDS; "$@"; status=$?; ((status != 0 && status != 130)); do
        ((SECONDS - begun < 10 ? ++failures : (failures = 0)))
        ((failures < 10)) || break
        echo "exit status $status, again in 2 s: $*" >&2
        sleep 2
    done
    return $status
}

# Run a command that stops when this shell does, even if it is killed: its standard input ends then.
attached() {
    local input child status
    exec {input}> >(exec "$@")
    child=$!
    trap 'kill -TERM $child 2>/dev/null' TERM
    while wait $child; kill -0 $child 2>/dev/null; do :; done  # a signal ends a wait before the command
    wait $child
    status=$?
    exec {input}>&-
    return $status
}
export -f keep attached

# The host of each task: SLURM_TASKS_PER_NODE is a list such as 2(x3),1.
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
hosts=()
for part in ${SLURM_TASKS_PER_NODE//,/ }; do
    tasks=${part%%(*}
    times=1
    [[ $part =~ \(x([0-9]+)\) ]] && times=${BASH_REMATCH[1]}
    for ((; times > 0; times--)); do
        for ((task = 0; task < tasks; task++)); do hosts+=("${nodes[0]}"); done
        nodes=("${nodes[@]:1}")
    done
done
printf '%s\n' "${hosts[@]:1:{{ agents }}}" > "$run/slurm-hosts"
"$matrpo" cluster move --cluster "$run/cluster.yaml" "${hosts[@]:0:{{ agents + servers }}}" || exit

# A step for each server and one for the agents, each started again by itself if it is killed; in the agents' every
# task starts its own agent again. Tasks are in the order of `cluster move`: a server, the agents, further servers.
step="srun --overlap --cpu-bind=none --no-kill --kill-on-bad-exit=0"
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' TERM
servers=()
for ((server = 0; server < {{ servers }}; server++)); do
    host=${hosts[server ? {{ agents }} + server : 0]}
    keep $step --ntasks=1 --nodes=1 --nodelist="$host" "$matrpo" env-server --cluster "$run/cluster.yaml" --id $server &
    servers+=($!)
done
SLURM_HOSTFILE=$run/slurm-hosts keep $step --ntasks={{ agents }} --distribution=arbitrary \
    bash -c 'keep attached "$matrpo" agent --cluster "$run/cluster.yaml" --id auto --until-eof' &
agents=$!

# Whoever comes back when a server has ended, and so all is over, would wait for ever.
all_serve() {
    local server
    for server in "${servers[@]}"; do kill -0 $server 2>/dev/null || return; done
}
while all_serve; do sleep 1; done
for ((second = 0; second < 60; second++)); do
    kill -0 "${servers[@]}" $agents 2>/dev/null || break
    sleep 1
done
kill -0 "${servers[@]}" $agents 2>/dev/null && scancel --signal=TERM "$SLURM_JOB_ID"
wait $agents
worst=0
for server in "${servers[@]}"; do
    wait $server
    status=$?
    ((status > worst)) && worst=$status
done
exit $worst
