#!/usr/bin/env bash
# The nine variants of Khorrami et al. on one corpus, tables, figures and findings; options as run.py's:
#
#   bash examples/schedules/run.sh [--seeds 1,2,3] [--updates N] [--only w2v2,vgs] [KEY=VALUE …]
#
# PYTHON names the interpreter; by default that of .venv, where there is one, else `python`.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python
    [[ ! -x "$HERE/.venv/bin/python" ]] || PYTHON="$HERE/.venv/bin/python"
fi
# OpenMP threads that wait by spinning slow each other down many times over as soon as a core is shared.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-100}"
exec "$PYTHON" "$HERE/examples/schedules/run.py" "$@"
