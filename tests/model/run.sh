#!/bin/sh
# Checks the models of the wake protocol and of the mesh's ports: as they are, exhaustively, without an error; and with each of
# its steps left out, where the error that the step is there to prevent must be found. Prints a
# line for each. Exit 0: all as expected; 1: not; 77: a tool is missing, with the reason.
set -u

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
models=$(cd "$here" && pwd)
model=$models/doorbell.pml
for tool in spin cc cpp; do
	if ! command -v "$tool" >/dev/null; then
		echo "skipped: $tool is not installed"
		exit 77
	fi
done
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir" || exit 1

# explore NAME PAN_CFLAGS PAN_FLAGS [SPIN_FLAGS...]: leaves pan's report in $dir/NAME.
explore() {
	name=$1 cflags=$2 flags=$3
	shift 3
	# shellcheck disable=SC2086
	if ! { spin -a "$@" "$model" && cc -O2 -w $cflags -o pan pan.c; } >"$name.build" 2>&1; then
		echo "$name: does not build"
		cat "$name.build"
		exit 1
	fi
	# shellcheck disable=SC2086
	./pan -m1000000 $flags >"$name" 2>&1
}

states() {
	sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1 states/p' "$1"
}

# holds NAME PAN_CFLAGS PAN_FLAGS [SPIN_FLAGS...]
holds() {
	explore "$@"
	if ! grep -q 'errors: 0$' "$1" ||
		grep -qi 'max search depth too small\|out of memory\|not completed' "$1"; then
		echo "$1: expected no error, got:"
		cat "$1"
		exit 1
	fi
	echo "$1: errors: 0 ($(states "$1"))"
}

# fails NAME EXPECTED [SPIN_FLAGS...]: the error must be the expected one, not any.
fails() {
	name=$1 expected=$2
	shift 2
	explore "$name" -DSAFETY "" "$@"
	if ! grep -q "^pan:1: $expected" "$name" || ! grep -q 'errors: 1$' "$name"; then
		echo "$name: expected \"$expected\", got:"
		cat "$name"
		exit 1
	fi
	echo "$name: fails as it must ($expected)"
}

holds protocol -DSAFETY ""
holds protocol-livelock -DNP -l
fails without-worker-fence 'invalid end state' -DBREAK_WORKER_FENCE
fails without-waker-fence 'invalid end state' -DBREAK_WAKER_FENCE
fails without-recheck 'invalid end state' -DBREAK_RECHECK
fails without-claim 'invalid end state' -DBREAK_CLAIM

model=$models/mesh.pml
holds mesh -DSAFETY ""
holds mesh-runs -DSAFETY "" -DPLACES=4 -DRUN=3
holds mesh-one-place -DSAFETY "" -DPLACES=1
holds mesh-livelock -DNP -l
fails mesh-without-room-recheck 'invalid end state' -DBREAK_ROOM_RECHECK
fails mesh-without-mail-order 'invalid end state' -DBREAK_MAIL_ORDER
fails mesh-without-bell-order 'invalid end state' -DBREAK_BELL_ORDER
fails mesh-without-waiting-order 'invalid end state' -DBREAK_WAITING_ORDER -DPLACES=1
fails mesh-without-sleep-recheck 'invalid end state' -DBREAK_SLEEP_RECHECK
