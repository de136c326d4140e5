#!/bin/bash
# Two network namespaces, one node of a job in each: its losses equal those of one node with two processes.
#
#   PYTHONPATH=.:tests:tests/e2e tests/e2e/two_machines.sh FOLDER     ends with 77 and the reason where it is not permitted
set -u
folder=$(realpath "$1"); mkdir -p "$folder"
python=${PYTHON:-python}
a=detrex_a_$$ b=detrex_b_$$
end() {
    for ns in $a $b; do
        ip netns pids $ns 2>/dev/null | xargs -r kill -9 2>/dev/null
        ip netns del $ns 2>/dev/null
    done
}
trap end EXIT
reason=$( (ip netns add $a && ip netns add $b && ip link add v$$a netns $a type veth peer name v$$b netns $b) 2>&1 ) || {
    echo "two machines cannot be made here: ${reason:-no ip command}"; exit 77
}
for one in "$a v$$a 10.77.0.1" "$b v$$b 10.77.0.2"; do
    set -- $one
    ip -n $1 addr add $3/24 dev $2 && ip -n $1 link set $2 up && ip -n $1 link set lo up || exit 77
done
export OMP_NUM_THREADS=1
options=$($python -c "
import sys; from pathlib import Path; from test_train_processes import STEADY; from training import overrides
print('\n'.join([*overrides(Path(sys.argv[1]), Path('OUT')), *STEADY]))" "$folder/data") || exit 1
mapfile -t options <<<"$options"
$python -c "import sys; from detrex_ext.data import shapes; shapes.write(sys.argv[1], 12, 4, 48, 0)" "$folder/data"

train() {  # OUT command...: in which every OUT is the folder
    local out=$1; shift
    "$@" -m detrex_ext train --config-file small "${flags[@]}" "${options[@]/OUT/$out}"
}
flags=(--num-gpus 2)
train "$folder/one" $python || exit 1

on() { ip netns exec "$1" env GLOO_SOCKET_IFNAME="$2" "${@:3}"; }
for machine in 0 1; do
    flags=(--num-gpus 1 --num-machines 2 --machine-rank $machine --dist-url tcp://10.77.0.1:29511)
    [ $machine = 0 ] && where=(on $a v$$a) || where=(on $b v$$b)
    train "$folder/launch$machine" "${where[@]}" $python >"$folder/launch$machine.txt" 2>&1 &
done
wait %1 && wait %2 || { cat "$folder"/launch?.txt; exit 1; }

flags=()
for machine in 0 1; do
    run=(-m torch.distributed.run --nnodes 2 --node-rank $machine --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29512)
    [ $machine = 0 ] && where=(on $a v$$a) || where=(on $b v$$b)
    train "$folder/torchrun$machine" "${where[@]}" $python "${run[@]}" >"$folder/torchrun$machine.txt" 2>&1 &
done
wait %1 && wait %2 || { cat "$folder"/torchrun?.txt; exit 1; }

$python -c "
import sys; from pathlib import Path; from test_train_processes import assert_same_losses_and_figures as same
for other in ('launch0', 'torchrun0'):
    same(Path(sys.argv[1], 'one'), Path(sys.argv[1], other)); print(other, 'equals one machine')" "$folder"
