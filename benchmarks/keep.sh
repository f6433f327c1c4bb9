#!/usr/bin/env bash
# keep.sh NAME TITLE COMMAND...: shows what a benchmark prints and keeps it for page.py.
set -euo pipefail
mkdir -p "$(dirname "$0")/results"
into="$(dirname "$0")/results/$1.txt"
title="$2"
shift 2
said="$("$@")"
printf '%s\n' "$said"
printf '# %s\n%s\n' "$title" "$said" > "$into"
