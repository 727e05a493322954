#!/usr/bin/env bash
# Train STAGE (tokenizer, decoder, semantic, recognizer, perceptual, ablation) for MINUTES and leave pieces, log and figures in OUT.
#   bash models/training/gpu_slice.sh STAGE MINUTES OUT [RESUME ...]
# RESUME: OUT folders of earlier slices, of this stage to go on with it and of others to build on them.
# Packs are looked for in build/gpu/STAGE, then in those of any other stage, which are alike (PACKS=folder says
# otherwise); Python is python3 (PYTHON=... otherwise).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: gpu_slice.sh STAGE MINUTES OUT [RESUME ...]" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
packs=${PACKS:-}
for folder in "$root/build/gpu/$1" "$root"/build/gpu/*; do
    if [ -z "$packs" ] && [ -f "$folder/pack-00/packs" ]; then packs=$folder; fi
done
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" -m speechgpt_gen.models.training.slices "$@" --packs "${packs:-$root/build/gpu/$1}" ${SLICE_OPTIONS:-}
