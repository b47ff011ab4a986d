#!/usr/bin/env bash
# Whether the Rust code compiles for macOS, on a machine that isn't one: all crates but fusion-llama, whose build needs Apple's C++.
# Nothing is linked, so that what compiles C for the dependencies may be stand-ins that only leave empty files.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=aarch64-apple-darwin

if [ "$(uname -s)" = Darwin ]; then
    exit 0 # The other checks do it.
fi
if ! rustup target add "$TARGET" >/dev/null 2>&1; then
    echo "check_mac: skipped: rustup can't add the target $TARGET" >&2
    exit 0
fi

# Always the same place, as what was built with them is built anew when it changes.
mkdir -p "${CARGO_TARGET_DIR:-target}/standins"
standins="$(cd "${CARGO_TARGET_DIR:-target}/standins" && pwd)"
cat >"$standins/cc" <<'END'
#!/bin/sh
while [ $# -gt 1 ]; do
    [ "$1" = -o ] && : >"$2"
    shift
done
END
cat >"$standins/ar" <<'END'
#!/bin/sh
for file; do
    case "$file" in *.a) : >"$file" ;; esac
done
END
chmod +x "$standins/cc" "$standins/ar"

export SDKROOT="$standins" CC_aarch64_apple_darwin="$standins/cc" CXX_aarch64_apple_darwin="$standins/cc"
export AR_aarch64_apple_darwin="$standins/ar"
cargo check --workspace --exclude fusion-llama --target "$TARGET"
