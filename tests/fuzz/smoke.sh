#!/bin/sh
# Runs every fuzz target for SECONDS_EACH (default 20) seconds: `make fuzz-smoke`.
#
#   tests/fuzz/smoke.sh [TARGET...]     only these targets
#
# Works with a stable toolchain: the coverage flags are what `cargo fuzz` passes, without the sanitizer that needs a
# nightly one. libFuzzer itself is C++; where there is no C++ compiler, tools/lab/cxx.sh fetches one into the lab cache.
# What a target grows is kept in tests/fuzz/corpus, what it finds in tests/fuzz/artifacts. A find becomes a regression
# test when it is fixed: copy it to tests/regressions/TARGET/ under a name that says what it was.
set -eu
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-20}
targets=${*:-frame_to_key vhost_messages descriptor_chains json_rpc journal}

if ! command -v "${CXX:-c++}" >/dev/null; then
  CXX=$(../../tools/lab/cxx.sh)
  export CXX CXXSTDLIB=stdc++
  libraries=$(dirname "$("$CXX" -print-file-name=libstdc++.so)")
fi
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares ${libraries:+-Lnative=$libraries}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:+$CARGO_TARGET_DIR/fuzz}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# --target keeps the flags away from build scripts and procedural macros.
cargo build --locked --release --target x86_64-unknown-linux-gnu

status=0
for target in $targets; do
  mkdir -p "corpus/$target" "artifacts/$target" "../regressions/$target"
  echo "fuzz: $target for $seconds s"
  log=$CARGO_TARGET_DIR/$target.log
  if "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/$target" -max_total_time="$seconds" -timeout=30 \
    -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
    "corpus/$target" "../regressions/$target" "seeds/$target" >"$log" 2>&1 </dev/null; then
    sed -n 's/^stat::number_of_executed_units: */  executed /p; s/^stat::new_units_added: */  new inputs /p' "$log"
  else
    echo "  FOUND SOMETHING (log: $log):"
    grep -aE 'panicked|ERROR|Test unit written|assertion|SUMMARY' -A 2 "$log" | tail -n 15
    status=1
  fi
done
exit $status
