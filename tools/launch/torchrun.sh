#!/usr/bin/env bash
# Starts `rlef fit` on this node by torchrun. Start it on every node, with the same variables and options:
#
#   RLEF_NODES=8 RLEF_RANKS_PER_NODE=8 RLEF_HEAD=node-0 tools/launch/torchrun.sh --config configs/70b.yaml
#
# All options go to `rlef plan`, which must find nothing wrong, and then to `rlef fit`. Number of nodes and ranks are
# set here, and --ckpt_path last: the same command starts a run and goes on with it.
#
#   RLEF_NODES            number of nodes (1)
#   RLEF_RANKS_PER_NODE   processes on each, one for each GPU (8)
#   RLEF_HEAD             HOST or HOST:PORT where the nodes meet, one of them (this node; needed with several)
#   RLEF_RUN_ID           name of the run: nodes with another one do not join (rlef)
#   RLEF_RESTARTS         how often all ranks are started again after a failure (3)
#   RLEF_INTERFACE        network interface between the nodes, as eth0; needed where a host's own name does not lead
#                         to an address that the others reach (not set: gloo and NCCL choose)
#   RLEF_ADDRESS          this node's address for the others, where its host name will not do (not set)
#   RLEF_LOST_NODE_S      seconds to wait for a node that is gone to come back (600)
#   RLEF_PLAN             0: start without `rlef plan` (1)
#   RLEF_PLAN_OPTIONS     more options for `rlef plan`, as "--hardware h200-141gb"
#   RLEF_STOP_S           seconds that the ranks have to save and end when they are told to, or one has failed, before
#                         they are killed (1200: an epoch's updating with 70b.yaml, a validation and a checkpoint, as
#                         slurm.sbatch's lead; after less a kill loses what was trained since the last checkpoint)
#
# Exit codes: 0 finished; 1 a rank failed (its messages say why), the plan found something wrong, or the ranks were told
# to end. Tell this process, not a rank: torchrun passes SIGTERM and SIGUSR1 on, the ranks save and end
# (docs/scaling.md), and the same command goes on. A rank that ends by itself is a failure to torchrun.
set -euo pipefail

nodes=${RLEF_NODES:-1}
ranks=${RLEF_RANKS_PER_NODE:-8}
head=${RLEF_HEAD:-}

if [[ -z $head ]]; then
    if ((nodes > 1)); then
        echo "torchrun.sh: RLEF_HEAD is not set: with $nodes nodes it must name the host where they meet" >&2
        exit 2
    fi
    head=127.0.0.1:0 # any free port
fi
if [[ $head != *:* ]]; then
    head=$head:29400
fi
if [[ -n ${RLEF_INTERFACE:-} ]]; then
    export GLOO_SOCKET_IFNAME=$RLEF_INTERFACE NCCL_SOCKET_IFNAME=$RLEF_INTERFACE
fi

options=("$@" "--trainer.num_nodes=$nodes" "--trainer.devices=$ranks")

if [[ ${RLEF_PLAN:-1} != 0 ]]; then
    # Several words, hence not quoted.
    # shellcheck disable=SC2086
    rlef plan ${RLEF_PLAN_OPTIONS:-} "${options[@]}"
fi

launcher=(
    torchrun
    "--nnodes=$nodes"
    "--nproc-per-node=$ranks"
    --rdzv-backend=c10d
    "--rdzv-endpoint=$head"
    "--rdzv-id=${RLEF_RUN_ID:-rlef}"
    "--rdzv-conf=join_timeout=${RLEF_LOST_NODE_S:-600}"
    "--max-restarts=${RLEF_RESTARTS:-3}"
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 # torchrun alone would end by the last
)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${RLEF_STOP_S:-1200}
if [[ -n ${RLEF_ADDRESS:-} ]]; then
    launcher+=("--local-addr=$RLEF_ADDRESS")
fi
exec "${launcher[@]}" -m rlef_lightning.cli fit "${options[@]}" --ckpt_path=last
