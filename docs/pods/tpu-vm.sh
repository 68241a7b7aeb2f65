#!/usr/bin/env bash
# Starts one run on all hosts of a Cloud TPU slice, and again after a preemption, until it ends for good.
#
#   TPU=my-slice ZONE=us-west4-a COMMAND="jaxft train --config jaxft:hotdog --workdir /mnt/shared/run --resume" ./tpu-vm.sh
#
# COMMAND runs on every host in ~/jaxft, where the project is installed in .venv with '.[tpu]'. The run directory must be
# on a disk that all hosts share, such as a Filestore share that is mounted at /mnt/shared.
set -euo pipefail

: "${TPU:?the name of the slice}"
: "${ZONE:?its zone}"
: "${COMMAND:?what to run on each host, with --resume}"
attempts=${ATTEMPTS:-20}

for ((attempt = 1; attempt <= attempts; attempt++)); do
  code=0
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all \
    --command "cd ~/jaxft && . .venv/bin/activate && $COMMAND --distributed" || code=$?
  case $code in
    0) exit 0 ;;
    # An error of the program; or of gcloud, where the slice is gone, which a queued resource brings back.
    1)
      state=$(gcloud compute tpus tpu-vm describe "$TPU" --zone "$ZONE" --format="value(state)" || true)
      if [[ $state == READY ]]; then exit 1; fi
      ;;
    # An error of the user, too little memory, numbers that are not finite; Ctrl-C.
    2 | 3 | 4 | 130) exit "$code" ;;
  esac
  echo "attempt $attempt of $attempts ended with code $code; starting again in 30 s" >&2
  sleep 30
done
exit 75
