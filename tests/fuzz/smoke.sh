#!/bin/sh
# Runs every fuzz target for a while and says what it reached. Fails when an input breaks a property, and says which.
#
#   tests/fuzz/smoke.sh [SECONDS [TARGET...]]     default: SECONDS_EACH or 20, every target
#   tests/fuzz/smoke.sh --replay TARGET FILE...   runs these inputs once, with a backtrace
#
# Stable Rust: the compiler's own coverage pass, with libFuzzer from the crate libfuzzer-sys. That one is C++; where there is no
# compiler for it, tools/lab/cxx.sh fetches one into the lab cache. What the fuzzer learns stays in corpus/, what it finds
# goes to artifacts/; both are beside this script and ignored by git. docs/howto/fuzz.md says more.
set -eu
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
host=x86_64-unknown-linux-gnu
build=${CARGO_TARGET_DIR:-$here/target}/fuzzing

say() { echo "fuzz: $*" >&2; }

replay=''
if [ "${1-}" = --replay ]; then
  [ $# -ge 3 ] || { say "usage: $0 --replay TARGET FILE..."; exit 2; }
  replay=$2
  shift 2
  seconds=0
else
  seconds=${1:-${SECONDS_EACH:-20}}
  case $seconds in *[!0-9]* | '' | 0) say "'$seconds' is not a number of seconds"; exit 2 ;; esac
  [ $# -eq 0 ] || shift
fi

# --- build ---------------------------------------------------------------------------------------------------------
if ! command -v "${CXX:-c++}" >/dev/null; then
  say "no C++ compiler (${CXX:-c++}), which libFuzzer needs: fetching one into the lab cache"
  CXX=$("$here/../../tools/lab/cxx.sh") || { say "that failed: install the package g++, or set CXX"; exit 1; }
  export CXX CXXSTDLIB=stdc++
  library=$(dirname "$("$CXX" -print-file-name=libstdc++.so)")
fi
# One flag per line of this list; --target keeps them away from build scripts.
export RUSTFLAGS="--cfg fuzzing
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
  ${library:+-Lnative=$library}"
RUSTFLAGS=$(echo "$RUSTFLAGS" | tr -s '\n ' ' ')
say "building the targets"
CARGO_TARGET_DIR=$build cargo build --locked --release --quiet --manifest-path "$here/Cargo.toml" --target $host --bins
programs=$build/$host/release

# Scratch files of the targets: in memory where possible, and gone at the end even if a target dies.
scratch=/dev/shm
[ -d $scratch ] && [ -w $scratch ] || scratch=/tmp
TMPDIR=$(mktemp -d "$scratch/vswitch-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

if [ -n "$replay" ]; then
  RUST_BACKTRACE=1 "$programs/$replay" "$@"
  exit
fi

# --- run -----------------------------------------------------------------------------------------------------------
all=$(cd "$here/src/bin" && ls -- *.rs | sed 's/\.rs$//')
found=0
printf '%-20s %10s %8s %8s %8s\n' target exec/s edges features corpus
for target in ${*:-$all}; do
  [ -e "$here/src/bin/$target.rs" ] || { say "no target $target; there are: $(echo "$all" | tr '\n' ' ')"; exit 2; }
  corpus=$here/corpus/$target findings=$here/artifacts/$target
  mkdir -p "$corpus" "$findings" "$here/regressions/$target"
  log=$findings/log
  status=0
  FUZZ_SEEDS=$TMPDIR/$target.seeds
  export FUZZ_SEEDS
  mkdir "$FUZZ_SEEDS"
  "$programs/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=2048 -len_control=0 \
    -artifact_prefix="$findings/" "$corpus" "$FUZZ_SEEDS" "$here/regressions/$target" >"$log" 2>&1 || status=$?
  # The last line of progress: "#1234 DONE cov: 567 ft: 890 corp: 12/345b lim: 678 exec/s: 910 rss: 11Mb".
  grep '^#.*cov:' "$log" | tail -n 1 |
    sed 's/.*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*exec\/s: \([0-9]*\).*/\4 \1 \2 \3/' | {
    read -r rate edges features inputs || rate='-'
    printf '%-20s %10s %8s %8s %8s\n' "$target" "$rate" "${edges:--}" "${features:--}" "${inputs:--}"
  }
  if [ $status -ne 0 ]; then
    found=1
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    say "$target: BROKEN (exit $status; log: $log)"
    grep -A2 -E "panicked at|ERROR: libFuzzer" "$log" | head -n 6 >&2 || true
    if [ -n "$input" ]; then
      say "  input:  $input"
      say "  replay: tests/fuzz/smoke.sh --replay $target $input"
      say "  once fixed, keep it: cp $input tests/fuzz/regressions/$target/WHAT-IT-WAS"
    fi
  fi
done
exit $found
