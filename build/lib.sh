# shellcheck shell=bash
# What the scripts in this folder share: where things are, and the environment that they run in.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for those who source this
out=$root/build/out

# Go's installer for Linux leaves PATH to the user, who may be a CI job.
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
export PATH="$out/bin:$PATH"

# A checkout that belongs to another user makes git refuse, and go build with it.
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
# A go.work above this folder is the user's own affair.
export GOWORK=off

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}
