#!/bin/sh
# Makes the pictures of README.md again, from a true run of configs/tiny.toml:
#
#     pipelines/pictures/make.sh
#
# Needs target/release/pipeline (make build), the dump (data/fetch-wiki.sh data/cache/wiki), tmux, python3, chromium.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
out=$root/pipelines/pictures
work=$(mktemp -d)
program=${PIPELINE:-$root/target/release/pipeline}
session=millrace-pictures-$$
trap 'tmux kill-session -t "$session" 2>/dev/null; rm -rf "$work"' EXIT
mkdir -p "$work/data/cache"
ln -s "$root/configs" "$work/configs"
ln -s "$root/data/cache/wiki" "$work/data/cache/wiki"

tmux new-session -d -s "$session" -x 80 -y 54 -c "$work" "env PS1='\$ ' MILLRACE_CACHE='$work/cache' \
    PATH='$(dirname "$program"):$PATH' sh"
tmux send-keys -t "$session" clear Enter
sleep 1
tmux send-keys -t "$session" "pipeline run configs/tiny.toml" Enter
until [ -e "$work/runs/tiny/report.html" ]; do sleep 1; done
sleep 1
tmux send-keys -t "$session" "pipeline runs" Enter
sleep 1
tmux capture-pane -e -p -t "$session" | python3 "$out/terminal.py" > "$out/terminal.svg"

# A longer run has more to show.
(cd "$work" && MILLRACE_CACHE="$work/cache" "$program" run configs/tiny.toml --set run.max_steps=600 \
    --run-dir runs/longer)
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$work/profile" \
    --window-size=1010,890 --screenshot="$out/report.png" "file://$work/runs/longer/report.html" 2>/dev/null
ls -l "$out"
