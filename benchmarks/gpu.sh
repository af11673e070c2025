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
# Exit code: 0; 1 if there is no GPU or a package is missing, or if a part failed (the report says which); 130 after Ctrl-C.
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
"$python" - <<'END'
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version


def is_missing(package):
    try:
        version(package)
    except PackageNotFoundError:
        return True
    return False


if is_missing("daskt2i"):
    sys.exit("daskt2i is not installed for this Python. Nothing was measured. Set WHEELS, or run pip install -e . first.")
needed = [re.match(r"[\w.-]+", text).group() for text in requires("daskt2i") or [] if "extra ==" not in text]
if missing := [package for package in needed if is_missing(package)]:
    sys.exit(f"These packages are missing: {', '.join(missing)}. Nothing was measured. Put their wheels into WHEELS.")
END
export HF_HUB_OFFLINE=1
# shellcheck disable=SC2086
exec "$python" -m daskt2i.workflow bench device --device "$device" $tiny --seconds "${BENCH_SECONDS:-400}" --out "$out"
