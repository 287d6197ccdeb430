#!/usr/bin/env bash
# The stages of build/test, each run in a process of its own by it.
#
# usage: build/stages.sh STAGE WORK   where WORK is a folder to write in; WORK/counts gets a line of
#                                     "passed failed skipped" for each thing counted
set -euo pipefail
# shellcheck source=build/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

stage=$1
work=$2

# ---- counting

skip() {
	echo "skipped: $*"
	echo "0 0 1" >>"$work/counts"
}

# check LABEL COMMAND...: one test, which passes if the command succeeds. Its output is shown if not.
check() {
	local label=$1
	shift
	if "$@" >"$work/output" 2>&1; then
		echo "ok   $label"
		echo "1 0 0" >>"$work/counts"
	else
		echo "FAIL $label"
		cat "$work/output"
		echo "0 1 0" >>"$work/counts"
	fi
}

# silent COMMAND...: fails if the command fails or says anything.
silent() {
	local said
	said=$("$@" 2>&1) || {
		printf '%s\n' "$said"
		return 1
	}
	[ -z "$said" ] || {
		printf '%s\n' "$said"
		return 1
	}
}

report() {
	[ -x "$work/report" ] || (cd "$root" && go build -o "$work/report" ./build/report) || return
	"$work/report" -counts "$work/counts" "$@"
}

# ---- runners, which fail by their status alone: callers may have turned set -e off

# go_test ARGUMENT...: the tests of the module in the current folder; go_test_core: those of the packages
# that the C core is linked into, for stages that are about it.
go_test() {
	go test -json -count=1 -timeout 15m "$@" ./... 2>&1 | report
}

go_test_core() {
	go test -json -count=1 -timeout 15m "$@" . ./internal/core ./tests 2>&1 | report
}

# cmake_preset PRESET: configures and builds. What was configured with other tools starts afresh.
cmake_preset() {
	cmake --preset "$1" >"$work/output" 2>&1 ||
		cmake --fresh --preset "$1" >"$work/output" 2>&1 || {
		cat "$work/output"
		return 1
	}
	cmake --build --preset "$1"
}

# c_test PRESET [COMMAND...]: builds the C tests and runs them, by way of COMMAND.
c_test() {
	local preset=$1 status=0
	shift
	cmake_preset "$preset" || return
	if ! compgen -G 'tests/c/*_test.c' >/dev/null; then
		skip "no C tests yet"
		return
	fi
	# The go stage runs the Go suite, with its tests counted one by one.
	"$@" ctest --preset "$preset" -LE '^go$' --no-tests=error --output-junit "$work/junit.xml" || status=$?
	report -junit "$work/junit.xml" || return
	return $status
}

modules() {
	find . -mindepth 2 -name go.mod -not -path './build/out/*' -not -path '*/testdata/*' \
		-printf '%h\n' | sort
}

# c_files, scripts, markdown: what lint reads, NUL between the names.
c_files() {
	find csrc include tests bench examples internal \( -name '*.c' -o -name '*.h' \) -print0 2>/dev/null || true
}

scripts() {
	find . \( -path ./.git -o -path ./build/out \) -prune -o -type f -print0 |
		while IFS= read -rd '' file; do
			if IFS= read -r first <"$file" && [[ $first =~ ^#!.*sh$ || $first == '# shellcheck shell='* ]]; then
				printf '%s\0' "$file"
			fi
		done 2>/dev/null
}

markdown() {
	find . \( -path ./.git -o -path ./build/out \) -prune -o -name '*.md' -print0
}

links_resolve() {
	local file link bad=0
	# shellcheck disable=SC2016 # backquotes are what it looks for
	while IFS= read -rd '' file; do
		while IFS= read -r link; do
			link=${link%%#*}
			if [ -n "$link" ] && [ ! -e "${file%/*}/$link" ]; then
				echo "$file: $link does not exist"
				bad=1
			fi
		done < <(sed '/^ *```/,/^ *```/d' "$file" | grep -oE '\]\([^) ]+\)' |
			sed 's/^](//; s/)$//' | grep -vE '^([a-z]+:|/)' || true)
	done < <(markdown)
	return $bad
}

each_file() { # each_file LIST COMMAND...: one run of the command over all of the list
	local list=$1
	shift
	"$list" | xargs -0r "$@"
}

# ---- stages

# stage c: C library and tests with warnings as errors, headers one by one, the model
stage_c() { c_test dev; }

# stage go: go vet and the Go tests of the root module; those of buffers and tasks in the debug build too
stage_go() {
	local status=0
	check 'go vet' go vet ./...
	go_test || status=$?
	go_test_core -tags veloq_debug -short -run 'Pool|Lease|Limits|Runtime|Task|Scope|Reported|Dropped' || status=$?
	return $status
}

# stage epoll: the Go tests on the driver for machines without io_uring
stage_epoll() { VELOQ_DRIVER=epoll go_test_core; }

# stage stepdown: the Go tests on io_uring without what older kernels lack, in turn and all at once
stage_stepdown() {
	local status=0 deny
	local flags=SINGLE_ISSUER,DEFER_TASKRUN,COOP_TASKRUN,TASKRUN_FLAG,SUBMIT_ALL,REGISTERED_RING
	local repeating=ACCEPT_MULTISHOT,RECV_MULTISHOT,POLL_MULTISHOT
	local buffers=BUFFER_RING,BUFFER_INCREMENTAL
	local rest=SKIP_SUCCESS,SEND_ZC,SHUTDOWN,TIMEOUT_UPDATE
	if ! go run ./cmd/veloq-doctor -driver uring >"$work/output" 2>&1; then
		cat "$work/output"
		skip "io_uring is refused here"
		return
	fi
	export VELOQ_DRIVER=uring
	# One at a time what moves bytes; with VELOQ_LONG=1 all, as what follows does anyway.
	local each='Echo|Suite|Stream|Datagram|Driver|Limits'
	[ "${VELOQ_LONG:-}" != 1 ] || each=.
	for deny in ACCEPT_MULTISHOT RECV_MULTISHOT POLL_MULTISHOT BUFFER_RING BUFFER_INCREMENTAL \
		SKIP_SUCCESS DEFER_TASKRUN "$flags" SHUTDOWN,TIMEOUT_UPDATE; do
		echo "-- without $deny"
		VELOQ_DENY=$deny go test -json -count=1 -timeout 15m -short -run "$each" ./tests 2>&1 | report ||
			status=$?
	done
	echo '-- as Linux 5.10'
	VELOQ_DENY=$flags,$repeating,$buffers,$rest go_test_core || status=$?
	echo '-- as Linux 5.10, under the race detector'
	VELOQ_DENY=$flags,$repeating,$buffers,$rest go_test_core -short -race || status=$?
	return $status
}

# stage nocgo: the Go tests without a C core, where only the net door is there
stage_nocgo() {
	local status=0
	check 'go vet without cgo' env CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=0 go_test || status=$?
	case $(go env GOHOSTARCH) in
	amd64 | 386)
		# There the net door has no calls of its own, and package net's connections do all the work.
		CGO_ENABLED=0 GOARCH=386 go_test -run 'Direct|Netdoor' || status=$?
		;;
	*) skip "the net door over package net alone is tested on 386" ;;
	esac
	return $status
}

# stage race: the Go tests under the race detector
stage_race() { go_test -race; }

# stage asan: C tests under AddressSanitizer and UBSan, Go tests with -asan
stage_asan() {
	local status=0
	c_test asan || status=$?
	printf 'package main\nimport "C"\nfunc main() {}\n' >"$work/probe.go"
	if go build -asan -o "$work/probe" "$work/probe.go" >"$work/output" 2>&1; then
		# cgo's and the runtime's own memory is never freed, so leaks are not looked for.
		VELOQ_INSTRUMENTED=1 ASAN_OPTIONS=detect_leaks=0 go_test_core -asan -short || status=$?
	else
		cat "$work/output"
		skip "go build -asan does not work here"
	fi
	return $status
}

# stage tsan: C tests under ThreadSanitizer
stage_tsan() {
	# Address randomisation beyond 28 bits, the default of newer kernels, breaks clang's TSan before 18.
	c_test tsan setarch --addr-no-randomize
}

# stage checkptr: the Go tests with cgocheck2 and checkptr, for pointers given to C
stage_checkptr() { VELOQ_INSTRUMENTED=1 GOEXPERIMENT=cgocheck2 go_test_core -gcflags=all=-d=checkptr; }

# stage modules: build, vet and test the modules that are not the root one
stage_modules() {
	local status=0 module
	while IFS= read -r module; do
		echo "-- $module"
		cd "$root/$module"
		check "$module: go build" go build -o /dev/null ./...
		check "$module: go vet" go vet ./...
		go_test || status=$?
	done < <(modules)
	cd "$root"
	[ -s "$work/counts" ] || skip "no other modules yet"
	return $status
}

# stage lint: formatting, static analysis, tidy modules, links in the documentation
stage_lint() {
	local module
	check 'clang-format' each_file c_files clang-format --dry-run -Werror
	check 'gofumpt' silent gofumpt -l .
	check 'shellcheck' each_file scripts shellcheck -x
	check 'links in documents' links_resolve
	for module in . $(modules); do
		cd "$root/$module"
		check "$module: go mod tidy" go mod tidy -diff
		check "$module: go vet" go vet ./...
		check "$module: staticcheck" staticcheck ./...
	done
}

# stage windows: C and Go suites under Wine; builds for systems without a C core
stage_windows() {
	local os
	check 'C for windows' cmake_preset windows
	for os in windows darwin freebsd; do
		check "go build for $os" env GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./...
		check "go vet for $os" env GOOS=$os CGO_ENABLED=0 go vet ./...
	done
	check 'go build for linux without cgo' env CGO_ENABLED=0 go build -o /dev/null ./...
	"$root/build/wine" bash "$root/build/stages.sh" wine "$work"
}

# What runs inside build/wine.
stage_wine() {
	local status=0
	local windows=(env GOOS=windows CGO_ENABLED=1 CC=x86_64-w64-mingw32-gcc)
	local test=(go test -json -count=1 -short -timeout 10m -exec wine)
	c_test windows || status=$?
	check 'go vet for windows with the C core' "${windows[@]}" go vet ./...
	"${windows[@]}" "${test[@]}" . ./internal/core ./internal/gid ./internal/wheel ./tests 2>&1 |
		report || status=$?
	# The example has no way to skip where package net opens no UDP socket.
	"${windows[@]}" "${test[@]}" -skip '^Example$' ./rudp 2>&1 | report || status=$?
	"${windows[@]}" "${test[@]}" -race . ./internal/core 2>&1 | report || status=$?
	"${windows[@]}" "${test[@]}" -race -run 'Echo|Suite|Stream|Datagram|Task|Mesh|Errors|Scope|Chan' ./tests 2>&1 |
		report || status=$?
	return $status
}

"stage_$stage"
