#!/usr/bin/env bash
# Runs every benchmark once, then the tests, on this machine's device; the output goes to OUT/NAME.txt.
#
#   benchmarks/run_all.sh [OUT]          default: results/benchmarks
#   SECONDS_EACH=120 benchmarks/run_all.sh out speed-float32 matching    only these, two minutes each at most
#
# PYTHON is the interpreter (default: .venv/bin/python). A benchmark that fails or takes too long is noted in
# OUT/summary.txt, and the next one runs. The most important figures of a new device come first.
set -uo pipefail
out=$(realpath -m "${1:-results/benchmarks}")
[ $# -gt 0 ] && shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(command -v "${PYTHON:-.venv/bin/python}") || { echo "error: no ${PYTHON:-.venv/bin/python}; make env" >&2; exit 2; }
export PYTHONPATH=$PWD
mkdir -p "$out"
: >"$out/summary.txt"

jobs=(
  "speed-float32|-m benchmarks.speed --objects 1,3,10 --json $out/speed-float32.json"
  "speed-bfloat16|-m benchmarks.speed --objects 1,3,10 --config.model.dtype=bfloat16 --json $out/speed-bfloat16.json"
  "speed-resnet50|-m benchmarks.speed --variants resnet50 --objects 1,3 --config.model.dtype=bfloat16 --json $out/speed-resnet50.json"
  "train_speed|benchmarks/train_speed.py --batch 8 --steps 20"
  "batching|-m benchmarks.batching --batches 2,4,8"
  "slots|-m benchmarks.speed --objects 1 --slots 2,5,12,20 --json $out/slots.json"
  "matching|-m benchmarks.matching"
  "alignment|-m benchmarks.alignment"
  "roi_align|-m benchmarks.roi_align"
  "long_video|-m benchmarks.long_video --evictions fifo,consolidate"
  "tests|-m pytest -m 'not slow' -p no:cacheprovider"
)

for job in "${jobs[@]}"; do
  name=${job%%|*}
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  start=$(date +%s)
  eval "timeout ${SECONDS_EACH:-900} '$python' ${job#*|}" >"$out/$name.txt" 2>&1
  code=$?
  echo "$name: exit code $code, $(($(date +%s) - start)) s" | tee -a "$out/summary.txt"
done
! grep -qv "exit code 0," "$out/summary.txt"
