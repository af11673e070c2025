#!/usr/bin/env bash
# Measures one GPU in under 8 minutes, without a network and without data: encoding, training and drawing beside plain
# code of the libraries, and the kernels of the device. It writes a folder with a page (.md, .html), .json and pictures.
#
#   benchmarks/gpu.sh [--tiny] [OUT]       OUT is runs/gpu if it is not given; --tiny: small models on the CPU
#
#   WHEELS=FOLDER     first install these wheels and this checkout, as on a machine that has only torch and its friends
#   BENCH_SECONDS=N   time for all measurements, 400 if it is not given
#   DEVICE=cuda:N     another GPU than the first one
#   PYTHON=python3    the Python to use
#
# Exit code: 0; 1 if there is no GPU, or if a part failed (the report says which); 130 after Ctrl-C.
set -euo pipefail
out="" tiny=""
for argument in "$@"; do
  case $argument in
    --tiny) tiny=--tiny ;;
    -*) echo "gpu.sh knows --tiny and a folder, not $argument. Nothing was measured." >&2; exit 2 ;;
    *) out=$argument ;;
  esac
done
out=$(realpath -m -- "${out:-runs/gpu}")
top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
if [ -n "$tiny" ]; then device=cpu; fi

if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$WHEELS"/*.whl
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e "$top"
fi
cd "$top"
export HF_HUB_OFFLINE=1
# shellcheck disable=SC2086
exec "$python" -m daskt2i.workflow bench device --device "$device" $tiny --seconds "${BENCH_SECONDS:-400}" --out "$out"
