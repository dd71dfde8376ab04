#!/bin/sh
# Runs a command as root of an ordinary container, without any further privilege: plain-container.sh (volume|overlay) STATE COMMAND…
# PLAIN_CONTAINER names the program that testdata/examples/plain_container.rs becomes.
set -eu
program=${PLAIN_CONTAINER:-${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/debug/examples/plain_container}
exec unshare --mount --pid --ipc --uts --fork --kill-child "$program" "$@"
